"""The main job: train every method on the same budget, judge their answers, and write the leaderboard.

Every rate is judged on validation only; the test is answered by the cells of the chosen rate and of those that would be
chosen without one of the seeds, and by the bare base model.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sails_eval import stages
from sails_eval.aggregate import write_results
from sails_eval.bench import Bench
from sails_eval.board import to_markdown, write_frame
from sails_eval.budget import ledger, train_record, write_ledger
from sails_eval.config import CompareConfig, Recipe
from sails_eval.judges import load_judge
from sails_eval.leaderboard import BASE, Choice, Provenance, RowFacts, build, choose_rates
from sails_eval.plan import Cell, Setup, resolve
from sails_eval.plot import tradeoff
from sails_eval.records import Result, write_text
from sails_eval.run_folder import check_folder, open_run
from sails_eval.stages import Subject
from sails_eval.workers import workers

log = logging.getLogger(__name__)


def compare(config: CompareConfig, *, quiet: bool = False) -> Path:
    """Run a comparison, or go on with one, and return its folder; the leaderboard is in leaderboard.csv there."""
    setup = resolve(config)
    run = config.out or Path("runs") / f"{setup.pair.name}-{setup.fingerprint[:8]}"
    check_folder(run, setup)
    with workers(config.jobs, quiet=quiet) as pool:
        checked = pool.run(stages.check, setup)  # before the folder is made: bad input leaves nothing behind
        with open_run(run, config, setup) as described, _log_to(run / "compare.log"):
            for layout in checked.layouts:
                log.info("seed %d: %d tokens, %d steps, %d unique examples", *vars(layout).values())
            for note in checked.notes:
                log.info(note)
            if checked.notes:
                log.warning("%d notes on the training data, in %s", len(checked.notes), run / "compare.log")
            outcome = _run(Bench(setup, run, pool, quiet), keep=config.keep)
            for warning in outcome.warnings:
                log.warning(warning)
            write_outcome(run, setup, outcome, described)
            _drop_checkpoints(run, all_cells(setup) if config.keep == "none" else [])
    return run


@dataclass(frozen=True)
class Outcome:
    """What the stages came to; `warnings` are for whoever reads the leaderboard."""

    results: list[Result]
    choices: dict[str, Choice]
    warnings: list[str]


def _run(bench: Bench, *, keep: str) -> Outcome:
    """All stages: subspaces, validation of every cell, choice of rates, test of the chosen cells."""
    setup, run = bench.setup, bench.run
    jobs = [(setup.pair, recipe, run) for recipe in setup.recipes if recipe.init]
    bench.pool.map(stages.find_subspace, jobs, title="subspaces")
    base = Subject(BASE, run / "cells" / BASE)
    validated = bench.measure([base, *(_subject(run, cell) for cell in all_cells(setup))], "validation")
    choices = _choose(setup, validated)
    for choice in choices.values():
        log.info("%s: learning rate %s of %s", choice.method, choice.learning_rate, dict(choice.scores))
    kept = chosen_cells(setup, choices)
    contenders = [cell for cell in all_cells(setup) if cell.learning_rate in choices[cell.recipe.name].contenders]
    if keep != "all":
        _drop_checkpoints(run, [cell for cell in all_cells(setup) if cell not in contenders])
    chosen = [_subject(run, cell) for cell in kept]
    tested = bench.measure([base, *(_subject(run, cell) for cell in contenders)], "test")
    if keep != "all":
        _drop_checkpoints(run, [cell for cell in contenders if cell not in kept])
    warnings = [choice.warning for choice in choices.values() if choice.warning]
    same = Counter(subject.method for subject in bench.unchanged(chosen, base))
    warnings += [
        f"{method}: all test answers of {n} of {setup.seeds} seeds are the base model's own; its learning rates may "
        "be too low for this model."
        for method, n in same.items()
    ]
    return Outcome(validated + tested, choices, warnings)


def _subject(run: Path, cell: Cell) -> Subject:
    folder = run / cell.folder
    return Subject(cell.recipe.name, folder, folder / stages.CHECKPOINT, cell)


def all_cells(setup: Setup) -> list[Cell]:
    """Every cell of every method."""
    return [cell for recipe in setup.recipes for cell in setup.cells(recipe)]


def _choose(setup: Setup, validated: Sequence[Result]) -> dict[str, Choice]:
    if setup.learning_rates == 1:
        return {recipe.name: Choice(recipe.name, setup.rates(recipe)[0]) for recipe in setup.recipes}
    choices = choose_rates(validated, {task.name: task for task in setup.tasks})
    return {recipe.name: choices[recipe.name] for recipe in setup.recipes}


def chosen_cells(setup: Setup, choices: dict[str, Choice]) -> list[Cell]:
    """The cells of every method at its chosen rate."""
    return [cell for cell in all_cells(setup) if cell.learning_rate == choices[cell.recipe.name].learning_rate]


def write_outcome(run: Path, setup: Setup, outcome: Outcome, described: dict[str, Any]) -> None:
    """Write results.csv, budget.csv, leaderboard.csv, leaderboard.md and the picture."""
    results, choices = outcome.results, outcome.choices
    tasks = {task.name: task for task in setup.tasks}
    selection = {recipe.name: _selection_cost(run, recipe) for recipe in setup.recipes if recipe.init}
    write_results(run / "results.csv", results)
    write_ledger(run / "budget.csv", ledger(run, all_cells(setup), selection))
    provenance = Provenance(load_judge(setup.judge).name, described["date"], described["version"], described["run"])
    frame = build({setup.pair.name: results}, tasks, _facts(run, setup, choices), provenance=provenance)
    write_frame(run / "leaderboard.csv", frame)
    write_text(
        run / "leaderboard.md",
        to_markdown(frame, title=f"Leaderboard of {setup.pair.name}", warnings=outcome.warnings),
    )
    tradeoff(results, tasks, {BASE: Choice(BASE, None), **choices}, run / "tradeoff.png")


def _facts(run: Path, setup: Setup, choices: dict[str, Choice]) -> dict[str, RowFacts]:
    """What the leaderboard says of each row besides its scores."""
    model = setup.pair.name
    facts = {BASE: RowFacts(model)}
    for recipe in setup.recipes:
        cells = [cell for cell in chosen_cells(setup, choices) if cell.recipe == recipe]
        records = [train_record(run, cell) for cell in cells]
        facts[recipe.name] = RowFacts(
            model=model,
            sae="; ".join(sae.name for sae in setup.pair.saes) if recipe.init else "",
            seeds=len(cells),
            trainable_params=records[0]["trainable_params"],
            trainable_pct=round(100 * records[0]["trainable_params"] / records[0]["total_params"], 4),
            train_tokens=round(sum(record["tokens"] for record in records) / len(records)),
            tuning_trials=setup.learning_rates,
        )
    return facts


def _selection_cost(run: Path, recipe: Recipe) -> dict[str, Any]:
    report = json.loads(stages.subspace_path(run, recipe).with_suffix(".json").read_text(encoding="utf-8"))
    cost: dict[str, Any] = report["cost"]
    return cost


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
