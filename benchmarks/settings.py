"""One factor at a time: what each setting of SAILS does to a score on validation, written to docs/settings.md.

    python benchmarks/settings.py --pair testbed,testbed-b --seeds 10 --jobs 2

makes a recipe of every value of every setting that is not the default, all else as in adapters/sails.yaml, compares
them with `sails`, `sails-literal` and `lora` in one run, which goes on where it stopped, and tabulates the differences
from `sails`, paired over seeds. Defaults are chosen by such a table, so it is about the validation split
alone, each seed at the rate that the other seeds choose, and the pairs should be such as no board is of. Settings that
make no difference to `sails` itself are changed where they do: the fill where the basis is narrower than the rank, what
becomes of layers without an SAE where there are such. `--only` takes some of the variants, by what they change. What a
pair lacks the means for is left out, and the table says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from sails_eval.boards.leaderboard import CellKey, headline
from sails_eval.boards.table import METRICS, MIN_SEEDS
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import write_text
from sails_eval.core.names import names
from sails_eval.core.pair import Pair, load_pair
from sails_eval.core.paths import bundled
from sails_eval.core.schema import read_mapping
from sails_eval.core.stats import Mean, Sample, holm
from sails_eval.data.reading import read_examples
from sails_eval.run.compare import compare
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import find_tasks

VARIANTS: list[dict[str, Any]] = [
    {"contrast": "requests", "positions": "prompt_last"},
    {"contrast": "requests", "positions": "prompt_end"},
    {"contrast": "requests", "positions": "all"},
    {"positions": "first4"},
    {"positions": "all"},
    {"score": "abs"},
    {"score": "positive"},
    {"score": "negative"},
    {"score": "relative"},
    {"k": "rank"},
    {"k": 128},
    {"weights": "none"},
    {"variance": 0.8},
    {"variance": 0.8, "fill": "none"},
    {"readers": "encoder"},
    {"centred": True},
    {"saes": "one"},
    {"saes": "one", "uncovered": "nearest_below"},
    {"saes": "one", "uncovered": "skip"},
    {"side": "read"},
    {"side": "write"},
    {"scale": "unit"},
    {"basis": "frozen"},
    {"gains": "divided"},
    {"saes": "undertrained"},
    {"saes": "narrow"},
]
"""What each variant has unlike adapters/sails.yaml: one setting, with the positions where that takes others.

Those that have one setting more than another variant are compared with that one.
"""

OWN_RECIPES: dict[str, Any] = {"decoder": "permuted", "output_filter": 4, "score": "random"}
"""Values that a shipped recipe has, as a control or a neighbour of SAILS; the board of methods compares those."""

BESIDE = {"lora": "`lora`, no basis at all", "sails-literal": "`sails-literal`, as summaries of the paper describe it"}
"""Recipes that are compared with `sails`, too, by the titles of their rows."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", type=names, default=("testbed",), help="one, or several between commas")
    parser.add_argument("--only", type=names, help="variants by the settings that they change, as in score,weights")
    parser.add_argument("--metric", choices=METRICS, default="alignment_score")
    parser.add_argument("--seeds", type=int, default=5, help="at least 5")
    parser.add_argument("--learning-rates", type=int, default=6)
    parser.add_argument("--tokens", type=int, help="per cell; as the pair has it where absent")
    parser.add_argument("--limit", type=int, help="only the first documents of every task, for a trial")
    parser.add_argument("--judge", help="as the pairs have it where absent")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--run", type=Path, help="the run's folder, else runs/settings-PAIR")
    parser.add_argument("--doc", type=Path, default=Path("docs/settings.md"))
    options = parser.parse_args()
    if options.seeds < MIN_SEEDS:
        parser.error(f"--seeds {options.seeds}: below {MIN_SEEDS} nothing is compared")
    pairs = [load_pair(name) for name in options.pair]
    run = options.run or Path("runs") / f"settings-{'-'.join(pair.name for pair in pairs)}"
    done, lacking = possible(pairs, options.only)
    config = CompareConfig(
        methods=("sails", *BESIDE, *write_recipes(done, run.with_name(f"{run.name}-adapters"))),
        pair=",".join(options.pair),
        tokens=options.tokens,
        limit=options.limit,
        judge=options.judge,
        seeds=options.seeds,
        learning_rates=options.learning_rates,
        jobs=options.jobs,
        keep="none",
        out=run,
    )
    compare(config)
    told = ("pair", "only", "metric", "seeds", "learning_rates", "tokens", "limit", "judge")
    given = {key: ",".join(value) if isinstance(value := getattr(options, key), tuple) else value for key in told}
    flags = [f"--{key.replace('_', '-')} {value}" for key, value in given.items() if value is not None]
    command = " ".join(["python benchmarks/settings.py", *flags])
    samples = validated(RunFolder(run), options.metric)
    write_text(options.doc, page(samples, done, lacking, command=command, metric=METRICS[options.metric].title))
    print(f"written to {options.doc}")


def validated(run: RunFolder, metric: str) -> dict[str, Sample]:
    """Every trained row's scores on validation, the mean over pairs of each seed, which is at the rate that the others
    choose: for other trainings of these models, as two or three pairs say nothing of further ones."""
    known, found = find_tasks(), dict[str, list[tuple[float, ...]]]()
    unsettled: dict[str, list[bool]] = {}
    seeds: tuple[int | None, ...] = ()
    for one in (each for each in run.with_sub_runs() if each.results_file.is_file()):
        results = [row for row in one.results() if row.split == "validation"]
        scores = headline(results, {row.task: known[row.task] for row in results})
        for method, choice in one.choices(known).items():
            trained = {cell.seed for cell in scores if cell.method == method and cell.seed is not None}
            if seeds_of := tuple(sorted(trained)):
                cells = [CellKey(method, seed, choice.rate_of(seed), "validation") for seed in seeds_of]
                found.setdefault(method, []).append(tuple(scores[cell][metric] for cell in cells))
                unsettled.setdefault(method, []).append(not choice.settled)
                seeds = seeds_of
    means = {method: tuple(fmean(of_seed) for of_seed in zip(*of, strict=True)) for method, of in found.items()}
    return {method: Sample((of,), seeds, (any(unsettled[method]),)) for method, of in means.items()}


def name_of(variant: Mapping[str, Any]) -> str:
    return "-".join(["sails", *(f"{key}-{value}" for key, value in variant.items())]).lower()


def reference_of(variant: Mapping[str, Any]) -> dict[str, Any]:
    """The variant without its last setting, if there is such a one; else what nothing is changed in."""
    less = dict([*variant.items()][:-1])
    return less if less in VARIANTS else {}


def possible(pairs: Sequence[Pair], only: Sequence[str] | None = None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The variants that all pairs have the means for, and why one can't do the others; `only` those that change these
    settings."""
    asked = [one for one in VARIANTS if only is None or ({*one} - {*reference_of(one)}) & {*only}]
    asked += [less for one in asked if (less := reference_of(one)) and less not in asked]
    lacking = {name_of(one): why for one in asked for pair in pairs if (why := obstacle(one, pair))}
    return [one for one in VARIANTS if one in asked and name_of(one) not in lacking], lacking


def obstacle(variant: Mapping[str, Any], pair: Pair) -> str | None:
    """Why a pair lacks the means for a variant; None where it has them."""
    assert pair.train is not None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from sails_eval.methods.subspace.basis import norm_gain
    from sails_eval.models.adapters import target_modules
    from sails_eval.models.layers import Places, decoder_layers

    with torch.device("meta"):  # the architecture without the weights
        config = AutoConfig.from_pretrained(pair.model, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config)
    layers = decoder_layers(model)

    if variant.get("contrast") == "requests" and not any(one.harmful for one in read_examples(pair.train).examples):
        return "the training data do not say which requests are harmful"
    if variant.get("saes") not in (None, *pair.sae_sets):
        return "the pair has no SAEs of that name"
    if "uncovered" in variant and len(pair.sae_sources(variant.get("saes"))) == len(layers):
        return "every layer has an SAE of its own"
    if "gains" in variant:
        try:
            first = Places(model).of(next(iter(target_modules(model, pair))))
            norm_gain(layers[first.layer].to_empty(device="cpu"), first.norm)
        except UserError as error:
            return str(error)
    return None


def write_recipes(variants: list[dict[str, Any]], folder: Path) -> list[str]:
    """A recipe file for every variant; their paths."""
    default, paths = read_mapping(bundled("adapters") / "sails.yaml"), []
    for variant in variants:
        recipe = {
            **default,
            "description": f"SAILS with {label(variant)}.",
            "settings": {**default["settings"], **variant},
        }
        paths.append(folder / f"{name_of(variant)}.yaml")
        write_text(paths[-1], yaml.safe_dump(recipe, sort_keys=False))
    return [str(path) for path in paths]


def label(variant: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {str(value).lower()}" for key, value in variant.items())


def _title(variant: Mapping[str, Any]) -> str:
    reference = reference_of(variant)
    changed = {key: value for key, value in variant.items() if key not in reference}
    return f"`{label(changed)}`" + (f" beside `{label(reference)}`" if reference else "")


def page(
    samples: Mapping[str, Sample],
    variants: list[dict[str, Any]],
    lacking: Mapping[str, str],
    *,
    command: str,
    metric: str,
) -> str:
    """The page, as Markdown."""
    rows = [
        *((title, method, "sails") for method, title in BESIDE.items()),
        *((_title(v), name_of(v), name_of(reference_of(v))) for v in variants),
    ]
    differences = {method: samples[method].minus(samples[reference]) for _, method, reference in rows}
    told = {method: sample.mean() for method, sample in differences.items() if any(map(any, sample.values))}
    adjusted = dict(zip(told, holm([test.p() for test in told.values()]), strict=True))
    table = [
        f"| {title} | {_interval(samples[method])} | "
        + (
            f"{_interval(told[method], sign='+')} | {_small(adjusted[method])} |"
            if method in told
            else "the same models | – |"
        )
        for title, method, _ in rows
    ]
    left_out = [f"- `{name}`: {why}." for name, why in lacking.items()]
    return "\n".join(
        [
            "# What the settings of SAILS do",
            "",
            "The SAILS paper leaves most of these settings open; [`adapters/sails.yaml`](../adapters/sails.yaml)",
            "lists them with their defaults. Each row changes one setting of `sails`, or several that only",
            "matter together. *The same models* means that the setting has no effect here. Scores are means over",
            "pairs, measured on validation; each seed is at the learning rate that is best for the other seeds,",
            "and the test is not used. Intervals are 95 % t intervals over seeds: what other training runs of",
            "these models would score. Differences are paired over seeds. The p-values are adjusted by Holm's",
            f"method over {len(told)} rows; the intervals are not, so that of twenty rows without an effect, one",
            "excludes 0 on average.",
            "",
            f"Made by `{command}` ({len(samples['sails'].seeds)} seeds).",
            "With one learning rate, it is the (geometric) middle of each recipe's range.",
            "",
            f"| changed | {metric} on validation | difference | p (Holm) |",
            "| --- | --- | --- | --- |",
            f"| nothing (`sails`) | {_interval(samples['sails'])} | – | – |",
            *table,
            *(["", "Left out:", "", *left_out] if left_out else []),
            "",
        ]
    )


def _small(p: float) -> str:
    return "< 0.01" if p < 0.01 else f"{p:.2f}"


def _interval(of: Sample | Mean, *, sign: str = "") -> str:
    interval = (of.mean() if isinstance(of, Sample) else of).interval()
    return f"{interval.value:{sign}.3f} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"


if __name__ == "__main__":
    main()
