"""The main job: train every method on the same budget, judge their answers, and write the leaderboard.

Every rate is judged on validation only; the test is answered by the cells of the chosen rate and of those that would be
chosen without one of the seeds, and by the bare base model.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from sails_eval import checks, stages, within_seed
from sails_eval.bench import Bench, check_engine
from sails_eval.budget import LABELS, ledger, sae_tokens, train_record, write_ledger
from sails_eval.config import EMBEDDED, CompareConfig, Recipe
from sails_eval.curve_report import budget_points, rate_points, write_curves
from sails_eval.curves import Point
from sails_eval.early_stopping import stop_early
from sails_eval.leaderboard import Choice, RowFacts, choose_rates
from sails_eval.matching import Took, matched, misjudged, write_pace
from sails_eval.parts import Part, check_budgets, max_examples, placed, resolve_parts, run_folder, run_identity
from sails_eval.plan import Cell, Setup
from sails_eval.plot import tradeoff
from sails_eval.preflight import check_ready, is_large
from sails_eval.records import BASE, Result
from sails_eval.report import Outcome, board, write_board, write_report
from sails_eval.reuse import adopt, check_sealed, extended, seal
from sails_eval.run_folder import check_folder, describe, describe_parts, open_run
from sails_eval.stages import Subject
from sails_eval.workers import hosts, workers

log = logging.getLogger(__name__)


def compare(config: CompareConfig, *, quiet: bool = False) -> Path:
    """Run a comparison, or go on with one, and return its folder; the leaderboard is in leaderboard.csv there.

    Several pairs or budgets are as many comparisons, each in a subfolder that is a run of its own.
    """
    old, config = config.against, extended(config)
    check_ready(config)
    parts = resolve_parts(config)
    run = config.out or run_folder(parts)
    with workers(config.jobs, quiet=quiet) as pool, hosts(quiet=quiet) as engines:
        if any(is_large(part.setup.pair) for part in parts):
            pool.run(checks.check_machine, config)
        parts = matched(parts, run, pool, old=old)
        check_folder(run, run_identity(parts))
        for part in parts:
            check_folder(placed(run, part), part.setup.identity)
        if old is not None:
            check_sealed(old, parts)
        checked = [pool.run(checks.check, part.setup) for part in parts]  # bad input leaves no folder behind
        check_budgets(parts, checked)
        for part in parts:
            for row in part.setup.finished:
                pool.run(checks.check_finished, (part.setup, row))
            check_engine(pool, engines, part.setup)
        if config.pair is None and config.model is None and not quiet:
            print(f"on the embedded pair '{EMBEDDED}'; name another by --pair or --model", file=sys.stderr)
        for part in parts:
            write_pace(placed(run, part), part.setup)
        with open_run(run, config, describe_parts(parts)) as described, _log_to(run / "compare.log"):
            outcomes = []
            for number, (part, found) in enumerate(zip(parts, checked, strict=True), start=1):
                title = f"{number}/{len(parts)} {part.folder} " if len(parts) > 1 else ""
                bench = Bench(part.setup, placed(run, part), pool, engines, quiet, title)
                with _opened(bench, part, described) as own:
                    _note_training(bench, found)
                    if old is not None:
                        _reuse(placed(old, part), bench)
                    outcomes.append(_one(bench, own, keep=config.keep))
            if len(parts) > 1:
                write_joint(run, parts, outcomes, described)
    return run


@contextmanager
def _opened(bench: Bench, part: Part, described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The run folder of a part, with its log, if it is not the whole run's; yields its run.json."""
    if not part.folder:
        yield described
        return
    config = part.config.model_copy(update={"out": bench.run})
    with open_run(bench.run, config, describe(bench.setup)) as own, _log_to(bench.run / "compare.log"):
        yield own


def _note_training(bench: Bench, checked: checks.Checked) -> None:
    """Log what is trained on."""
    for layout in checked.layouts:
        log.info("%s, seed %d: %d tokens, %d steps, %d unique examples", *vars(layout).values())
    for recipe in bench.setup.recipes if bench.setup.match_params else ():
        log.info("%s: rank %d", recipe.name, recipe.rank(bench.setup.pair))
    for note in checked.notes:
        log.info(note)
    if checked.notes:
        log.warning("%d notes on the training data, in %s", len(checked.notes), bench.run / "compare.log")


def _reuse(old: Path, bench: Bench) -> None:
    """Take over what an earlier run has of the cells, and say how many."""
    found = adopt(old, bench.run, bench.setup, quiet=bench.quiet, title=bench.title)
    for reason in found.refused:
        log.warning(reason)
    told = f"{bench.title}{found.reused} of {found.cells} cells from {old}, {found.cells - found.reused} trained here"
    log.info(told)
    if not bench.quiet:
        print(told, file=sys.stderr)


def _one(bench: Bench, described: dict[str, Any], *, keep: str) -> Outcome:
    """One pair at one budget: all stages and all files of its folder."""
    outcome = _run(bench, keep=keep)
    for method, warnings in outcome.warnings.items():
        for warning in warnings:
            log.warning("%s%s: %s", bench.title, method, warning)
    write_outcome(bench.run, outcome, described)
    _drop_checkpoints(bench.run, bench.setup.all_cells() if keep == "none" else [])
    seal(bench.run, bench.setup)
    return outcome


def _run(bench: Bench, *, keep: str) -> Outcome:
    """All stages: subspaces, validation of every cell, choice of rates, test of the cells that may be chosen.

    With several checkpoints, each cell's best one is chosen before.
    """
    setup, run, cells = bench.setup, bench.run, bench.setup.all_cells()
    jobs = [(setup.pair, recipe, run) for recipe in setup.recipes if recipe.init]
    bench.pool.map(stages.find_subspace, jobs, title=f"{bench.title}subspaces")
    base = Subject(BASE, run / "cells" / BASE)
    everyone = [base, *(_subject(run, cell) for cell in cells)]
    if setup.checkpoints > 1:
        stop_early(bench, keep=keep)
    validated = bench.measure(everyone, "validation")
    choices = _choose(setup, validated)
    for choice in choices.values():
        log.info("%s: learning rate %s of %s", choice.method, choice.learning_rate, dict(choice.scores))
    tested = [cell for cell in cells if cell.learning_rate in choices[cell.recipe.name].contenders]
    chosen = [cell for cell in cells if cell.learning_rate == choices[cell.recipe.name].learning_rate]
    if keep != "all":
        _drop_checkpoints(run, [cell for cell in cells if cell not in tested])
    candidates = [base, *(_subject(run, cell) for cell in tested)]
    results = validated + bench.measure(candidates, "test") + bench.measure_finished(setup.finished)
    finished = [bench.subject(row) for row in setup.finished]
    candidates += finished
    agreement = bench.agreement(everyone, "validation") + bench.agreement(candidates, "test")
    if keep != "all":
        on_board = [cell for cell in tested if cell.learning_rate == choices[cell.recipe.name].rate_of(cell.seed)]
        _drop_checkpoints(run, [cell for cell in tested if cell not in [*chosen, *on_board]])
    warnings = {choice.method: choice.warnings for choice in choices.values()}
    same = Counter(subject.method for subject in bench.unchanged([_subject(run, cell) for cell in chosen], base))
    for method, n in same.items():
        warnings[method].append(
            f"all test answers of {n} of {setup.seeds} seeds are the base model's own, so its learning rates may be "
            "too low for this model"
        )
    for method, note in [*setup.notes.items(), *misjudged(setup, _took(run, setup)).items()]:
        warnings[method].append(note)
    for subject in bench.unchanged(finished, base):
        warnings[subject.method] = ["all its test answers are the base model's own"]
    if setup.seeds == 1:
        rows = [*(_subject(run, cell) for cell in chosen), base, *finished]
        for method, lines in within_seed.notes(bench, rows).items():
            warnings.setdefault(method, []).extend(lines)
    panel = bench.panel_agreement(candidates)
    return Outcome(setup, results, _facts(run, setup, chosen), choices, warnings, agreement, panel)


def _subject(run: Path, cell: Cell) -> Subject:
    folder = run / cell.folder
    return Subject(cell.recipe.name, folder, folder / stages.CHECKPOINT, cell)


def _choose(setup: Setup, validated: Sequence[Result]) -> dict[str, Choice]:
    if setup.learning_rates == 1:
        return {recipe.name: Choice(recipe.name, setup.rates(recipe)[0]) for recipe in setup.recipes}
    choices = choose_rates(validated, {task.name: task for task in setup.tasks})
    return {recipe.name: choices[recipe.name] for recipe in setup.recipes}


def write_outcome(run: Path, outcome: Outcome, described: dict[str, Any]) -> None:
    """Write results.csv, budget.csv, the leaderboard, the curves and the pictures of one pair at one budget."""
    setup, name = outcome.setup, outcome.setup.pair.name
    selection = {
        recipe.name: {**_subspace(run, recipe)["cost"], "sae_tokens": _sae_tokens(run, setup, recipe)}
        for recipe in setup.recipes
        if recipe.init
    }
    write_ledger(run / "budget.csv", ledger(run, setup.all_cells(), selection, setup=setup))
    frame = write_report(run, outcome, described, title=f"Leaderboard of {name}")
    tradeoff(outcome.results, outcome.tasks, outcome.all_choices, run / "tradeoff.png")
    write_curves(run, rate_points([outcome], frame), title=f"Curves of {name}")


def write_joint(run: Path, parts: Sequence[Part], outcomes: Sequence[Outcome], described: dict[str, Any]) -> None:
    """Write the leaderboards and curves of all parts together: over the pairs, and over the budgets.

    The run's leaderboard is that of the largest budget. Where there are several pairs, too, every budget's is in a
    folder named after the budget, beside those of the pairs.
    """
    names = ", ".join(dict.fromkeys(part.pair for part in parts))
    budgets: dict[int | None, list[Outcome]] = {}
    frames: dict[int | None, pd.DataFrame] = {}
    points: list[Point] = []
    for part, outcome in zip(parts, outcomes, strict=True):
        budgets.setdefault(part.examples, []).append(outcome)
    for examples, these in budgets.items():
        title = f"Leaderboard of {names}" + (f" with {examples} examples" if examples else "")
        frames[examples] = frame = board(these, described)
        points += rate_points(these, frame, examples)
        if examples and len(these) > 1:
            write_board(run / f"examples-{examples}", frame, title=title)
        if examples == max_examples(parts):
            write_board(run, frame, title=title)
    points += budget_points(
        {n: these for n, these in budgets.items() if n}, {n: frame for n, frame in frames.items() if n}
    )
    write_curves(run, points, title=f"Curves of {names}")


def _facts(run: Path, setup: Setup, chosen: Sequence[Cell]) -> dict[str, RowFacts]:
    """What the leaderboard says of each row besides its scores."""
    model = setup.pair.name
    facts = {BASE: RowFacts(model)}
    for recipe in setup.recipes:
        cells = [cell for cell in chosen if cell.recipe == recipe]
        records = [train_record(run, cell) for cell in cells]
        facts[recipe.name] = RowFacts(
            model=model,
            sae="; ".join(_subspace(run, recipe)["saes"]) if recipe.init else "",
            seeds=len(cells),
            trainable_params=records[0]["trainable_params"],
            trainable_pct=round(100 * records[0]["trainable_params"] / records[0]["total_params"], 4),
            train_tokens=round(sum(record["tokens"] for record in records) / len(records)),
            sae_tokens=_sae_tokens(run, setup, recipe),
            tuning_trials=setup.trials,
            **{key: max(record[key] for record in records) for key in LABELS},
            saw=tuple(_subspace(run, recipe)["saw"]) if recipe.init else (),
        )
    return facts | {row.name: RowFacts(row.model) for row in setup.finished}


def _took(run: Path, setup: Setup) -> dict[str, Took]:
    """What every method's cells took, where FLOPs are matched: nobody else needs to know."""
    found = {}
    for recipe in setup.recipes if setup.match == "flops" else ():
        records = [train_record(run, cell) for cell in setup.cells(recipe)]
        before = _subspace(run, recipe)["cost"]["flops"] if recipe.init else 0
        flops, tokens = (sum(record[key] for record in records) / len(records) for key in ("flops", "tokens"))
        found[recipe.name] = Took(before + flops, tokens)
    return found


def _subspace(run: Path, recipe: Recipe) -> dict[str, Any]:
    """The report on what a recipe's initialisation starts from."""
    path = stages.subspace_path(run, recipe).with_suffix(".json")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def _sae_tokens(run: Path, setup: Setup, recipe: Recipe) -> int | None:
    """The tokens that the SAEs of a recipe's initialisation were trained on: 0 without SAEs, None where unknown."""
    if not (recipe.init and _subspace(run, recipe)["saes"]):
        return 0
    return sae_tokens(setup.pair.sae_sources(recipe.settings.get("saes")))


def _drop_checkpoints(run: Path, cells: Iterable[Cell]) -> None:
    """Delete checkpoints that are no longer needed; what was answered and measured with them stays."""
    for cell in cells:
        shutil.rmtree(run / cell.folder / stages.CHECKPOINT, ignore_errors=True)


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Write what is logged to a file, too."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("sails_eval").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("sails_eval").removeHandler(handler)
        handler.close()
