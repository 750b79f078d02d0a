"""The stages that run in worker processes; each reads files and writes files, by rename, and skips what is there.

Heavy imports stand inside the functions: the process that hands out the work never loads torch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sails_eval.core.files import write_bytes, write_json, write_jsonl
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import Split
from sails_eval.judges import judge_of
from sails_eval.methods.subspace.prepare import initialisation_of, seen_by
from sails_eval.models.engines import HF, engine_of
from sails_eval.models.loaded import base_of
from sails_eval.plan.setup import Cell
from sails_eval.run.folder.checkpoints import place_steps
from sails_eval.run.folder.layout import CHECKPOINT, completions_path, subspace_path
from sails_eval.tasks.library import TaskInfo
from sails_eval.training.batches import training_rows
from sails_eval.training.labels import labels_used

if TYPE_CHECKING:
    from lm_eval.api.model import LM

    from sails_eval.training.batches import TokenRow


@dataclass(frozen=True)
class Subject:
    """A model whose answers are wanted.

    `folder` is where its answers and verdicts go, `checkpoint` what is put onto the pair's base model (None: nothing),
    `cell` how it is trained where there is no checkpoint yet (None: it was not trained here), `served_as` what the user
    says that a server calls it, `system_prompt` what every request is preceded by.
    """

    method: str
    folder: Path
    checkpoint: Path | None = None
    cell: Cell | None = None
    served_as: str | None = None
    system_prompt: str = ""


@dataclass(frozen=True)
class AnswerJob:
    """Have a subject answer the tasks of a split, after training it if need be; `engine` is what answers."""

    pair: Pair
    subject: Subject
    tasks: tuple[TaskInfo, ...]
    split: Split
    run: Path
    limit: int | None = None
    engine: str = HF

    @property
    def missing(self) -> list[TaskInfo]:
        """The tasks that are not answered yet."""
        return [task for task in self.tasks if not completions_path(self.subject.folder, self.split, task).exists()]


@dataclass(frozen=True)
class TrainJob:
    """Train a cell into `folder`; `run` is where its subspace lies."""

    pair: Pair
    cell: Cell
    folder: Path
    run: Path


@dataclass(frozen=True)
class JudgeJob:
    """Judge one task's completions of one cell."""

    judge: str
    task: TaskInfo
    completions: Path
    verdicts: Path


def _labels(pair: Pair, recipe: Recipe, rows: Sequence[TokenRow]) -> dict[str, int]:
    """What `labels_used` says of a cell that is trained on these rows."""
    from sails_eval.methods import load_initialisation
    from sails_eval.methods.subspace.contrast import Contrast

    contrast = Contrast()
    if recipe.init:
        module = load_initialisation(recipe.init)
        contrast = seen_by(module.needs, pair, module.Settings(**recipe.settings))
    return labels_used(rows, contrast, pairs=recipe.objective == "dpo")


def find_subspace(job: tuple[Pair, Recipe, Path]) -> None:
    """Once per run and recipe: what its initialisation starts from, with a report of how and at what cost."""
    pair, recipe, run = job
    path = subspace_path(run, recipe)
    if path.exists():
        return
    from safetensors.torch import save
    from torch.utils.flop_counter import FlopCounterMode

    from sails_eval.methods.subspace.basis import Placement, describe
    from sails_eval.methods.subspace.reference_weights import reference
    from sails_eval.plan.cost.method_cost import own_sae_flops

    module, settings, material = initialisation_of(pair, recipe)
    before = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        state, report = module.prepare(material, settings)
    seconds = round(time.perf_counter() - before, 3)
    cost = {
        "tokens": material.contrast.tokens,
        "flops": counter.get_total_flops(),
        "seconds": seconds,  # with FLOPs being counted, which takes time of its own
        "sae_flops": round(own_sae_flops(recipe, pair)),
    }
    if isinstance(settings, Placement):
        used = describe(state, rank=recipe.rank(pair), fill=settings.fill, planted=material.planted)
        report = {layer: {**report.get(layer, {}), **said} for layer, said in used.items()}
    sae_set = getattr(settings, "saes", None)
    sources = pair.sae_sources(sae_set) if "saes" in module.needs else ()
    saes = [f"{sae_set}/{sae.name}" if sae_set else sae.name for sae in sources]
    saw = ["the planted subspace"] if "planted" in module.needs else []
    if "aligned_model" in module.needs:
        saw.append(f"a finished, aligned model ({reference(pair, settings.aligned)})")
    report = {"cost": cost, "saes": saes, "saw": saw, **report}
    write_json(path.with_suffix(".json"), report)
    write_bytes(path, save({name: tensor.contiguous() for name, tensor in state.items()}))


def to_train(job: AnswerJob) -> bool:
    """Whether the job's cell is untrained, or has no checkpoint that could give the answers that are missing."""
    subject = job.subject
    if subject.cell is None:
        return False
    trained, kept = (subject.folder / "train.json").exists(), subject.checkpoint and subject.checkpoint.exists()
    return not trained or bool(job.missing and not kept)


def prepare(job: AnswerJob) -> None:
    """Train the job's cell if that is still to be done."""
    if job.subject.cell is not None and to_train(job):
        train(TrainJob(job.pair, job.subject.cell, job.subject.folder, run=job.run))


def answer(job: AnswerJob) -> None:
    """Write the completions that are missing."""
    if not job.missing:
        return
    from sails_eval.models.chat import instructed

    subject, engine = job.subject, engine_of(job.engine, job.pair)
    with engine.serving(subject.checkpoint, subject.served_as) as lm, instructed(lm.tokenizer, subject.system_prompt):
        write_completions(lm, job)


def write_completions(lm: LM, job: AnswerJob) -> None:
    """Have a model that is ready answer the tasks that are missing."""
    from sails_eval.tasks.answer import complete

    for task in job.missing:
        completions = complete(lm, task, job.split, limit=job.limit)
        write_jsonl(completions_path(job.subject.folder, job.split, task), completions, private=True)


def prepare_and_answer(job: AnswerJob) -> None:
    """Both, in the process that has the base model for the one and the other."""
    prepare(job)
    answer(job)


def train(job: TrainJob) -> None:
    """Train a cell into `folder`/checkpoint and write train.json last: with it, the checkpoint is whole.

    Of several checkpoints each gets a folder of its own there.
    """
    from safetensors.torch import load_file

    from sails_eval.training.batches import CellRun, lay_out
    from sails_eval.training.cell import train_cell

    pair, cell, folder = job.pair, job.cell, job.folder
    rows = training_rows(pair)
    state = load_file(subspace_path(job.run, cell.recipe)) if cell.recipe.init else None
    budget = pair if cell.tokens is None else pair.model_copy(update={"tokens": cell.tokens})
    order = lay_out(rows, budget, seed=cell.seed, objective=cell.recipe.objective)
    partial = folder / f"{CHECKPOINT}.partial"
    for leftover in (partial, folder / CHECKPOINT):
        shutil.rmtree(leftover, ignore_errors=True)
    record = train_cell(
        base_of(pair),
        pair,
        cell.recipe,
        rows=rows,
        run=CellRun(cell.learning_rate, cell.seed, order, state, cell.checkpoints),
        folder=partial,
    )
    if cell.checkpoints == 1:
        partial.rename(folder / CHECKPOINT)
    else:
        place_steps(partial, folder)
    told = asdict(record) | _labels(pair, cell.recipe, [rows[i] for i in order])
    write_json(folder / "train.json", told)


def judge(job: JudgeJob) -> int:
    """Judge one file of completions; how many stay unscored."""
    from sails_eval.judges.stage import judge_file

    assert job.task.kind != "capability"
    return judge_file(judge_of(job.judge), job.task.kind, job.completions, job.verdicts)
