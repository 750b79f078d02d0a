"""The main job: train every method on the same budget, judge their answers, and write the leaderboard.

Every rate is judged on validation only; the test is answered by the cells of the chosen rate and of those that would be
chosen without one of the seeds, and by the bare base model.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sails_eval.boards.leaderboard import choose_rates
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.pair import EMBEDDED
from sails_eval.core.records import BASE, Result
from sails_eval.plan import checks
from sails_eval.plan.checks import check_budgets
from sails_eval.plan.parts import Part, placed, resolve_parts, run_folder, run_identity
from sails_eval.plan.preflight import check_ready, is_large
from sails_eval.plan.setup import Cell, Setup
from sails_eval.run import match_budgets, stages, within_seed
from sails_eval.run.early_stopping import stop_early
from sails_eval.run.folder import layout
from sails_eval.run.folder.description import check_folder, describe, describe_parts, open_run
from sails_eval.run.folder.reuse import adopt, check_sealed, extended, seal
from sails_eval.run.match_budgets import matched, misjudged, write_pace
from sails_eval.run.report.outcome import Outcome
from sails_eval.run.report.report import write_joint, write_outcome
from sails_eval.run.report.row_facts import _facts, _took
from sails_eval.run.runner import Bench, check_engine
from sails_eval.run.stages import Subject
from sails_eval.run.workers import hosts, workers

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
            pool.run(match_budgets.check_machine, config)
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
    for found in checked.layouts:
        log.info("%s, seed %d: %d tokens, %d steps, %d unique examples", *vars(found).values())
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
    return Subject(cell.recipe.name, folder, folder / layout.CHECKPOINT, cell)


def _choose(setup: Setup, validated: Sequence[Result]) -> dict[str, Choice]:
    if setup.learning_rates == 1:
        return {recipe.name: Choice(recipe.name, setup.rates(recipe)[0]) for recipe in setup.recipes}
    choices = choose_rates(validated, {task.name: task for task in setup.tasks})
    return {recipe.name: choices[recipe.name] for recipe in setup.recipes}


def _drop_checkpoints(run: Path, cells: Iterable[Cell]) -> None:
    """Delete checkpoints that are no longer needed; what was answered and measured with them stays."""
    for cell in cells:
        shutil.rmtree(run / cell.folder / layout.CHECKPOINT, ignore_errors=True)


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
