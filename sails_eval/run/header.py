"""What a person reads before work starts: what is compared, how much of it, by what, and where it goes."""

import os
from collections.abc import Iterable, Sequence

from sails_eval.core.device import has_gpu
from sails_eval.core.progress import say
from sails_eval.core.tables import wrapped
from sails_eval.models.architectures import targets_in_words
from sails_eval.models.engines import HF
from sails_eval.plan.plan import Cell, EvaluationPlan, Plan, SubRun
from sails_eval.run.folder.run_folder import RunFolder


def describe_run(plan: Plan, run: RunFolder, *, jobs: int) -> list[str]:
    """The lines that a comparison's plan adds."""
    first = plan.sub_runs[0]
    folders = [(cell, run.sub_run(one)) for one in plan.sub_runs for cell in one.all_cells()]
    trained = sum(folder.cell(cell).trained for cell, folder in folders)
    rows = ["base", *(row.name for row in first.references)]
    return _lines(
        ("model", ", ".join(dict.fromkeys(one.pair.model for one in plan.sub_runs))),
        ("methods", f"{', '.join(recipe.name for recipe in first.recipes)}; without training: {', '.join(rows)}"),
        ("cells", f"{_cells(plan)} = {len(folders)}{f', {trained} already trained' if trained else ''}"),
        *_training(first),
        *_answering(first),
        ("processes", _processes(jobs)),
        ("run folder", f"{run.path}{' (resumed)' if run.exists else ''}"),
    )


def describe_evaluation(plan: EvaluationPlan, method: str, run: RunFolder) -> list[str]:
    """The lines of an evaluation."""
    return _lines(("row", method), ("model", plan.pair.model), *_answering(plan), ("run folder", f"{run.path}"))


def describe_training(one: SubRun, cell: Cell, out: RunFolder) -> list[str]:
    """The lines of one training."""
    told = f"{cell.recipe.name} at learning rate {cell.learning_rate:g}, seed {cell.seed}"
    where = ("dtype", one.pair.dtype), ("folder", f"{out.path}")
    return _lines(("model", one.pair.model), ("method", told), *_training(one), *where)


def say_all(lines: Iterable[str], *, quiet: bool) -> None:
    for line in lines:
        say(line, quiet=quiet)


def line(name: str, text: str) -> str:
    """One line of it."""
    return wrapped(f"  {name:<10}  {text}", indent=14)


def _lines(*rows: tuple[str, str]) -> list[str]:
    return [line(name, text) for name, text in rows]


def _processes(jobs: int) -> str:
    """How many workers there are; where cores are left, what uses them: a GPU is shared by all, cores are not."""
    cores = os.cpu_count() or 1
    idle = f"; this machine has {cores} cores, --jobs {cores} uses all if memory suffices"
    return f"{jobs} with one thread each (--jobs){idle if jobs < cores and not has_gpu() else ''}"


def _cells(plan: Plan) -> str:
    """Cells as a product, of one pair at one budget, times how many of these there are."""
    one = plan.sub_runs[0]
    of_seeds = f"{one.learning_rates} rates × {len(one.validated_seeds)} seeds"
    if one.tuning:
        of_seeds = f"({of_seeds} to tune; test cells follow once rates are tuned)"
    several = f"{len(plan.sub_runs)} pairs or budgets × " if len(plan.sub_runs) > 1 else ""
    methods = f"{len(one.recipes)} method{'s' * (len(one.recipes) > 1)}"
    return f"{several}{methods} × {of_seeds}"


def _training(one: SubRun) -> Sequence[tuple[str, str]]:
    examples = f", {one.pair.examples:,} examples per seed" if one.pair.examples else ""
    matched = f"; {one.budget.match} are matched" if one.budget.match != "tokens" else ""
    training = ("training", f"{one.pair.length} per cell{examples}{matched}")
    if all(recipe.parameters == "all" for recipe in one.recipes):
        return [training]
    return [training, ("adapters", f"rank {one.pair.rank} on {targets_in_words(one.pair)}")]


def _answering(plan: EvaluationPlan) -> Sequence[tuple[str, str]]:
    limit = f", the first {plan.limit} prompts of each" if plan.limit else ""
    engine = f"transformers ({HF})" if plan.engine == HF else plan.engine
    return [
        ("tasks", f"{', '.join(task.name for task in plan.tasks)}{limit}"),
        ("judge", plan.judge.name),
        ("engine", f"{engine}, {plan.pair.dtype}"),
    ]
