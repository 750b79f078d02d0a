"""Does recovering a planted subspace predict alignment? A page and a picture from a run on a pair that has one.

    r=benchmarks/recipes
    sails-eval compare --protocol confirm --pair testbed-planted --seeds 8 --jobs 2 --out runs/planted --methods \\
        sails,lora,random-orthonormal,activation-svd-r,oracle,$r/oracle-half.yaml,$r/oracle-none.yaml,\\
        $r/sails-requests.yaml,$r/sails-requests-undertrained.yaml,$r/sails-requests-narrow.yaml,\\
        $r/activation-svd-requests.yaml --comparisons oracle:oracle-none,sails-requests:activation-svd-requests,\\
        sails-requests:lora,activation-svd-requests:lora,sails-requests:sails
    python benchmarks/recovery.py runs/planted

For every method that starts from a basis: how much of the planted subspace its basis holds at the planted layer (see
sails_eval/methods/subspace/recovery.py; 0 is chance) beside its alignment score on the test. The association is
measured within each seed, Spearman's ρ over the methods, and then averaged over seeds with a t interval: methods are
few and were chosen by hand, so the interval is for other trainings of the same methods, not for other methods. Families
are looked at alone, too: doses of the planted subspace itself, and SAILS over qualities of SAEs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from scipy.stats import spearmanr

from sails_eval.analyses.finished_run import read_tested
from sails_eval.core.files import write_text
from sails_eval.core.stats import Interval, Sample, t_interval
from sails_eval.run.folder.run_folder import RunFolder


class Recovered(NamedTuple):
    """A method's recovery of the planted subspace: of the basis itself, and with the rest of the rank filled up; how
    far the filled basis is from holding all of it; and how many columns were found."""

    basis: float | None
    filled: float
    sin_theta: float = 1.0
    columns: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run on a pair with a planted subspace")
    parser.add_argument("--doc", type=Path, default=Path("docs/planted.md"))
    parser.add_argument("--picture", type=Path, default=Path("docs/planted.png"))
    options = parser.parse_args()
    run = RunFolder(options.run)
    rows = read_tested(run)
    samples, refused = (
        {method: row.sample(m) for method, row in rows.items()} for m in ("alignment_score", "refusal_rate")
    )
    found = recoveries(run)
    if not found:
        raise SystemExit(f"{options.run}: no method has a recovery; give a run on a pair with a planted subspace")
    draw(samples, found, options.picture)
    write_text(options.doc, page(samples, refused, found, run=options.run, picture=options.picture.name))
    print(f"written to {options.doc}")


def recoveries(run: RunFolder) -> dict[str, Recovered]:
    """The recovery of every method of the run that has a basis at the planted layer; the mean over seeds' bases."""
    found = {}
    for method, reports in run.subspace_reports().items():
        said = [told for report in reports for told in report.found.values() if "recovery" in told]
        if said:
            bases = [told["recovery"] for told in said]
            filled = [told.get("recovery_filled", told["recovery"]) for told in said]
            angles = (fmean(told[key] for told in said) for key in ("sin_theta", "used_dim"))
            found[method] = Recovered(None if None in bases else fmean(bases), fmean(filled), *angles)
    return found


QUALITIES = ("", "-undertrained", "-narrow")
ORACLES = ("oracle", "oracle-half", "oracle-none")
FAMILIES = {
    "all methods with a basis": None,
    "the same without the oracles": tuple(f"!{name}" for name in ORACLES),
    "doses of the planted subspace (`oracle`, `-half`, `-none`)": ORACLES,
    "SAILS on responses, by SAE quality": tuple(f"sails{quality}" for quality in QUALITIES),
    "SAILS on requests, by SAE quality": tuple(f"sails-requests{quality}" for quality in QUALITIES),
}
"""The methods of each family; all where None, all others where the names begin with `!`."""

CHANCE_SIN = (1 - 8 / 128) ** 0.5
"""What sin Θ is in the mean for a random 8-dimensional basis of 128."""

CHANCE = 0.03
"""Two standard deviations of the recovery of a random 8-dimensional basis of 128: what is below is tied at 0."""


class Association(NamedTuple):
    """Spearman's ρ between recovery (filled) and alignment score: within each seed, and of the means over seeds."""

    within: Interval
    of_means: float
    methods: int


def members(family: tuple[str, ...] | None, found: Iterable[str]) -> list[str]:
    """The methods of a family that a run has."""
    if family is None:
        return sorted(found)
    if family[0].startswith("!"):
        return sorted(method for method in found if f"!{method}" not in family)
    return sorted(method for method in found if method in family)


def association(
    samples: Mapping[str, Sample], found: Mapping[str, Recovered], family: tuple[str, ...] | None = None
) -> Association | None:
    """How recovery and alignment score go together over a family's methods.

    None where fewer than three methods, or all with the same recovery, say nothing. A seed on which all methods score
    alike counts as 0.
    """
    methods = members(family, found)
    recovered = [found[method].filled if abs(found[method].filled) >= CHANCE else 0.0 for method in methods]
    if len(methods) < 3 or len(set(recovered)) < 2:
        return None
    columns = zip(*(samples[method].values[0] for method in methods), strict=True)
    rhos = [float(spearmanr(recovered, scores).statistic) if len(set(scores)) > 1 else 0.0 for scores in columns]
    means = [samples[method].mean().value for method in methods]
    return Association(t_interval(rhos).clip(-1, 1), float(spearmanr(recovered, means).statistic), len(methods))


def page(
    samples: Mapping[str, Sample],
    refused: Mapping[str, Sample],
    found: Mapping[str, Recovered],
    *,
    run: Path,
    picture: str,
) -> str:
    """The page, as Markdown."""
    trained = [method for method, sample in samples.items() if None not in sample.seeds]
    rows = [
        f"| `{method}` | {_told(found.get(method))} | {_text(refused[method])} | {_text(samples[method])} |"
        for method in sorted(trained, key=lambda method: -samples[method].mean().value)
    ]
    families = [
        f"| {title} | {one.methods} | {_rho(one.within)} | {one.of_means:.2f} |"
        for title, family in FAMILIES.items()
        if (one := association(samples, found, family))
    ]
    seeds = len(samples[trained[0]].seeds)
    return f"""\
# Does recovery of the subspace predict alignment?

On `testbed-planted` harmfulness is encoded in four known dimensions after layer 1, the subspace H (`sails-eval
testbed info` prints the evidence). *Columns* is how many directions a method found there; they span its basis U.
*Recovery* is ‖UᵀH‖² / min(dim U, 4) minus the value for a random basis of the same size; *filled up* is the same
after the rest of the rank is filled with random vectors; *sin Θ* is the distance of that basis from containing all of
H, √(1 − ‖UᵀH‖² / 4): 0 if it contains H, {CHANCE_SIN:.2f} by chance. All are means over the bases of all seeds. A
dash means that there is no basis at that layer.
Recipes with `requests` in their names contrast harmful with harmless requests at the token before the answer;
`oracle-half` and `oracle-none` start from half and from none of H. They are in `benchmarks/recipes`.

| method | columns | recovery | filled up | sin Θ to all of H | refusal | alignment score |
| --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}

![Recovery against alignment score]({picture})

Spearman's ρ between recovery (filled up; values within ±{CHANCE} of chance are tied at 0) and alignment score, within
each of the {seeds} seeds with the mean over them, and between recovery and the mean score:

| over | methods | ρ within a seed | ρ of the means |
| --- | --- | --- | --- |
{chr(10).join(families)}

The methods are few and chosen by hand: the intervals are about other training runs of these methods, not about other
methods, and a ρ of three means is 1 or −1 by chance one time in three. Within a seed, the noise of one training run
biases ρ towards 0. The oracles have a basis at the planted layer only, all others at every layer, so they differ in
more than recovery.

Made by `python benchmarks/recovery.py {run}`; the [script](../benchmarks/recovery.py) names the run's command.
"""


def draw(samples: Mapping[str, Sample], found: Mapping[str, Recovered], path: Path) -> None:
    """Recovery (filled up) against alignment score with its interval, a labelled point per method."""
    from matplotlib import color_sequences
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    axes.set_prop_cycle(color=color_sequences["tab20"])
    for method in sorted(found, key=lambda method: -samples[method].mean().value):
        interval = samples[method].mean().interval().clip(-1, 1)
        error = [[interval.value - interval.low], [interval.high - interval.value]]
        marker = "o" if method.startswith("sails") else "s" if method.startswith("oracle") else "x"
        axes.errorbar(found[method].filled, interval.value, yerr=error, fmt=marker, capsize=3, label=method)
    if "lora" in samples:
        lora = samples["lora"].mean().interval().clip(-1, 1)
        axes.axhspan(lora.low, lora.high, color="grey", alpha=0.2, label="lora (no basis)")
    axes.set_xlabel("recovery of the planted subspace (0: chance)")
    axes.set_ylabel("alignment score, test, 95 % interval")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _told(one: Recovered | None) -> str:
    """The cells of a row that are about its basis."""
    if one is None:
        return " | ".join("––––")
    basis = "–" if one.basis is None else f"{one.basis:.3f}"
    return f"{one.columns:.3g} | {basis} | {one.filled:.3f} | {one.sin_theta:.3f}"


def _text(sample: Sample) -> str:
    return _interval(sample.mean().interval().clip(-1, 1))


def _rho(interval: Interval) -> str:
    """Without brackets where all seeds are alike, of which Student's t would make certainty."""
    return f"{interval.value:.2f}" if interval.low == interval.high else _interval(interval)


def _interval(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


if __name__ == "__main__":
    main()
