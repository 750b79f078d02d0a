"""Where SAILS is better than, equivalent to or worse than its rivals: one table over finished runs, written to
docs/regimes.md.

    python benchmarks/regimes.py "all categories=runs/grid" "one category=runs/categories-1" \\
        "one SAE=runs/one@sails-one"

Every run is a regime, or as many as it has budgets (`compare --examples N,N --steps N,N`). In each, the comparisons of
`sails` (or of the row after @) with the other rows are one family: intervals are simultaneous 95 % intervals
(Bonferroni), p-values are adjusted by Holm's method. *Above* and *below* are differences at p < 0.05, *equivalent* is
within ±0.05 by two one-sided tests, and what is none of these is *not distinguished*, with the difference that the
design could have detected with a power of 80 %. There is no correction across regimes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sails_eval.analyses.finished_run import read_tested
from sails_eval.boards.contrasts import Comparison, Contrast, compare
from sails_eval.boards.curves import mean
from sails_eval.boards.leaderboard import parts_of
from sails_eval.boards.table import METRICS
from sails_eval.core.files import write_text
from sails_eval.core.names import names
from sails_eval.core.stats import Sample
from sails_eval.core.tables import markdown
from sails_eval.plan.budget import Size
from sails_eval.run.folder.run_folder import RunFolder

LEARNED = 0.05
"""The share of harmful requests that some row has to refuse, for a comparison to mean anything."""

RIVALS = ("lora", "random-orthonormal", "activation-svd-r", "full")


class Regime(NamedTuple):
    """A regime: its title and method; the method's own values by metric, whether any row learned
    to refuse, the learning rate of each row, and what the comparisons came to by metric, then by rival."""

    title: str
    method: str
    level: dict[str, float]
    learned: bool
    rates: dict[str, float | None]
    organisms: int
    seeds: int
    found: dict[str, dict[str, Comparison]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="TITLE=RUN[@METHOD]")
    parser.add_argument("--rivals", type=names, default=RIVALS)
    parser.add_argument("--metrics", type=names, default=("refusal_rate", "alignment_score"))
    parser.add_argument("--doc", type=Path, default=Path("docs/regimes.md"))
    options = parser.parse_args()
    regimes: list[Regime] = []
    for told in options.runs:
        title, _, run = told.rpartition("=")
        folder, _, method = run.partition("@")
        regimes += regimes_of(title, RunFolder(Path(folder)), method or "sails", options.rivals, options.metrics)
    write_text(options.doc, page(regimes, options.rivals, options.metrics))
    print(f"written to {options.doc}")


def regimes_of(
    title: str, run: RunFolder, method: str, rivals: Sequence[str], metrics: Sequence[str]
) -> Iterator[Regime]:
    """The regimes of a run: one for each budget, in which all its organisms count together."""
    budgets: dict[Size, list[RunFolder]] = {}
    for one in run.with_sub_runs():
        if one.results_file.is_file():
            budgets.setdefault(Size.of(str(one.path)), []).append(one)
    for budget, organisms in sorted(budgets.items()):
        parts = dict.fromkeys(part for metric in (*metrics, "refusal_rate") for part in parts_of(metric))
        rows = read_tested(*organisms, metrics=list(parts))
        here = [rival for rival in rivals if rival in rows]
        found, level = {}, {}
        choices = organisms[0].choices({})
        for metric in metrics:
            samples = {row: rows[row].sample(metric) for row in (method, *here)}
            level[metric] = mean(samples[method])
            contrasts = [Contrast(method, rival, metric) for rival in here]
            found[metric] = {one.b: one for one in compare(partial(_sample_of, samples), contrasts)}
        learned = any(mean(rows[row].sample("refusal_rate")) >= LEARNED for row in (method, *here))
        rates = {row: choices[row].learning_rate for row in (method, *here) if row in choices}
        seeds = len(rows[method].sample(metrics[0]).seeds)
        told = ", ".join(part for part in (title, str(budget)) if part)
        yield Regime(told, method, level, learned, rates, len(organisms), seeds, found)


def _sample_of(samples: Mapping[str, Sample], row: str, metric: str) -> Sample:
    return samples[row]


def verdict(one: Comparison) -> str:
    if one.distinguished:
        return "**above**" if one.difference.value > 0 else "**below**"
    if one.equivalent:
        return "equivalent"
    return f"not distinguished (could have detected {one.detectable:.2f})"


def page(regimes: Sequence[Regime], rivals: Sequence[str], metrics: Sequence[str]) -> str:
    """The page, as Markdown."""
    tables = []
    for metric in metrics:
        here = [rival for rival in rivals if any(rival in regime.found[metric] for regime in regimes)]
        rows = [
            [
                regime.title,
                f"{regime.organisms} × {regime.seeds}",
                f"`{regime.method}` {regime.level[metric]:.2f}{_at(regime.rates.get(regime.method))}",
                *(_cell(regime, metric, rival) for rival in here),
            ]
            for regime in regimes
        ]
        head = ["regime", "organisms × seeds", METRICS[metric].title, *(f"minus `{rival}`" for rival in here)]
        tables.append(f"## In {METRICS[metric].title}\n\n{markdown(head, rows)}")
    return f"""\
# In which regimes SAILS is better than, equivalent to or worse than other methods

Each row is a regime: a run, or one budget of a run. The columns *minus …* are differences on the test, `sails` (or
the variant that the row names) minus another method, paired over organisms and seeds, with simultaneous 95 %
intervals within the row. All comparisons of a row are corrected together, whatever the run declared, so a board's own
intervals differ a little. *Above* and *below*: p < 0.05 after Holm within the row. *Equivalent*: within ±0.05 by two
one-sided tests. Otherwise *not distinguished* (no significant difference), with the difference that the design could
have detected with a power of 80 %. There is no correction across rows: with no true difference, about one row in
twenty shows one by chance. *Nothing learned*: no method refuses 5 % of the harmful requests, so equivalence is
uninformative. Each method is tested at its own tuned learning rate (*rate*); if the rates differ, a difference may be
due to them.

{chr(10).join(tables)}
Made by [`benchmarks/regimes.py`](../benchmarks/regimes.py) from [these runs](../leaderboards/README.md#by-regime).
"""


def _cell(regime: Regime, metric: str, rival: str) -> str:
    one = regime.found[metric].get(rival)
    if one is None:
        return "–"
    rate = regime.rates.get(rival)
    return f"{one.difference.shown('+z.2f')} {verdict(one) if regime.learned else 'nothing learned'}{_at(rate)}"


def _at(rate: float | None) -> str:
    return "" if rate is None else f", rate {rate:.3g}"


if __name__ == "__main__":
    main()
