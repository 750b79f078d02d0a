"""The stages that run in worker processes; each reads files and writes files, by rename, and skips what is there.

Heavy imports stand inside the functions: the process that hands out the work never loads torch.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sails_eval.core.checksums import FIX, check, write_checked
from sails_eval.core.errors import CellFailed, UserError, first_line
from sails_eval.core.files import jsonl_text, move, remove
from sails_eval.core.pair import Pair
from sails_eval.core.progress import Done, tell
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import Split, read_completions
from sails_eval.judges import judge_of
from sails_eval.judges.stage import judge_file
from sails_eval.methods import Initialisation, Material, load_initialisation
from sails_eval.methods.subspace.prepare import aligned_model, initialisation_of
from sails_eval.models.chat import instructed
from sails_eval.models.engines import HF, engine_of
from sails_eval.models.loaded import base_of
from sails_eval.plan.plan import Cell
from sails_eval.run.failures import failing
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.records import PreparationCost, SubspaceReport, TrainRecord
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import TaskInfo
from sails_eval.training.batches import CellRun, lay_out, training_rows
from sails_eval.training.contrasted import contrasted
from sails_eval.training.labels import labels_used

if TYPE_CHECKING:
    import torch
    from lm_eval.api.model import LM


@dataclass(frozen=True)
class Subject:
    """A model whose answers are wanted.

    `folder` is where its answers and verdicts go, `checkpoint` what is put onto the pair's base model (None: nothing),
    `cell` how it is trained where there is no checkpoint yet (None: it was not trained here), `served_as` what the user
    says that a server calls it, `system_prompt` what every request is preceded by.
    """

    method: str
    folder: ModelFolder
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
    run: RunFolder
    limit: int | None = None
    engine: str = HF

    @property
    def missing(self) -> list[TaskInfo]:
        """The tasks that are not answered yet."""
        folder = self.subject.folder
        return [task for task in self.tasks if not folder.answers_file(self.split, task.name).exists()]


@dataclass(frozen=True)
class TrainJob:
    """Train a cell into `folder`; `run` is where its subspace lies."""

    pair: Pair
    cell: Cell
    folder: ModelFolder
    run: RunFolder


@dataclass(frozen=True)
class JudgeJob:
    """Judge one task's completions of one cell."""

    judge: str
    task: TaskInfo
    completions: Path
    verdicts: Path
    cell: Cell | None = None


@dataclass(frozen=True)
class StartJob:
    """Find what a recipe's initialisation starts from, for each of these seeds (None: for all of them)."""

    pair: Pair
    recipe: Recipe
    seeds: tuple[int | None, ...]
    run: RunFolder


def find_subspace(job: StartJob) -> None:
    """What a recipe's initialisation starts from, with a report of how and at what cost, for seeds that have none."""
    missing = [seed for seed in job.seeds if not job.run.subspace(job.recipe.name, seed).exists()]
    if not missing:
        return
    with failing():
        start, material = initialisation_of(job.pair, job.recipe)
        for seed in missing:
            contrast = contrasted(start, job.pair, job.recipe, seed=seed, tokenizer=base_of(job.pair).tokenizer)
            _find(job, start, replace(material, contrast=contrast), seed)


def _find(job: StartJob, start: Initialisation, material: Material, seed: int | None) -> None:
    from safetensors.torch import save
    from torch.utils.flop_counter import FlopCounterMode

    from sails_eval.plan.cost.method_cost import own_sae_flops

    pair, recipe, run = job.pair, job.recipe, job.run
    before = time.perf_counter()
    with FlopCounterMode(display=False) as counter:
        state, report = start.prepare(material)
    cost = PreparationCost(
        seconds=round(time.perf_counter() - before, 3),
        tokens=material.contrast.tokens,
        flops=counter.get_total_flops(),
        sae_flops=round(own_sae_flops(recipe, pair)),
    )
    for layer, used in start.describe(state, rank=recipe.rank(pair), planted=material.planted).items():
        report[layer] = {**report.get(layer, {}), **used}
    warnings = start.warnings(report, rank=recipe.rank(pair))
    sources = pair.sae_sources(start.sae_set) if "saes" in start.needs else ()
    saes = [f"{start.sae_set}/{sae.name}" if start.sae_set else sae.name for sae in sources]
    saw = ["the planted subspace"] if "planted" in start.needs else []
    if aligned := aligned_model(pair, start):
        saw.append(f"a finished, aligned model ({aligned})")
    said = SubspaceReport(cost=cost, saes=saes, saw=saw, warnings=warnings, found=report)
    if strange := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise CellFailed(f"{recipe.name}: what its adapters start from has values that are not finite ({strange[0]})")
    said.write(run.subspace_report_file(recipe.name, seed))
    write_checked(run.subspace(recipe.name, seed), save({name: tensor.contiguous() for name, tensor in state.items()}))


def to_train(job: AnswerJob) -> bool:
    """Whether the job's cell is untrained, or has no checkpoint that could give the answers that are missing."""
    subject = job.subject
    if subject.cell is None:
        return False
    kept = subject.checkpoint and subject.checkpoint.exists()
    return not subject.folder.trained or bool(job.missing and not kept)


def prepare(job: AnswerJob) -> None:
    """Train the job's cell if that is still to be done. Raises CellFailed where it cannot be trained."""
    if job.subject.cell is not None and to_train(job):
        with failing():
            train(TrainJob(job.pair, job.subject.cell, job.subject.folder, run=job.run))


def answer(job: AnswerJob) -> None:
    """Write the completions that are missing. Raises CellFailed where a trained cell cannot answer.

    What goes wrong with an engine that serves all of them is no cell's failure.
    """
    if not job.missing:
        return
    subject, engine = job.subject, engine_of(job.engine, job.pair)
    with (
        failing() if subject.cell and job.engine == HF else nullcontext(),
        engine.serving(subject.checkpoint, subject.served_as) as lm,
        instructed(lm.tokenizer, subject.system_prompt),
    ):
        write_completions(lm, job)


def write_completions(lm: LM, job: AnswerJob) -> None:
    """Have a model that is ready answer the tasks that are missing."""
    from sails_eval.tasks.answer import complete

    for task in job.missing:
        before = time.perf_counter()
        completions = complete(lm, task, job.split, limit=job.limit)
        write_checked(job.subject.folder.answers_file(job.split, task.name), jsonl_text(completions), private=True)
        tell(Done("answers", len(completions), time.perf_counter() - before))


def prepare_and_answer(job: AnswerJob) -> None:
    """Both, in the process that has the base model for the one and the other."""
    prepare(job)
    answer(job)


def train(job: TrainJob) -> None:
    """Train a cell, save its checkpoint and write its record last: with that, the checkpoint is whole.

    Of several checkpoints each gets a folder of its own there.
    """
    from sails_eval.training.cell import train_cell

    before = time.perf_counter()
    pair, cell, folder = job.pair, job.cell, job.folder
    rows = training_rows(pair)
    state = _start(job.run.subspace(cell.recipe.name, cell.start_seed)) if cell.recipe.init else None
    order = lay_out(rows, cell.budget(pair), seed=cell.seed, objective=cell.recipe.objective)
    remove(folder.partial)
    folder.drop_checkpoint()
    cost = train_cell(
        base_of(pair),
        pair,
        cell.recipe,
        rows=rows,
        run=CellRun(cell.learning_rate, cell.seed, order, state, cell.checkpoints),
        folder=folder.partial,
    )
    if cell.checkpoints == 1:
        move(folder.partial, folder.checkpoint)
    else:
        folder.place_steps()
    start, tokenizer = load_initialisation(cell.recipe), base_of(pair).tokenizer
    contrast = contrasted(start, pair, cell.recipe, seed=cell.start_seed, tokenizer=tokenizer)
    labels = labels_used([rows[i] for i in order], contrast, pairs=cell.recipe.objective == "dpo")
    TrainRecord.model_validate(cost.model_dump() | labels).write(folder.record.path)
    tell(Done("training", 1, time.perf_counter() - before))


def _start(path: Path) -> Mapping[str, torch.Tensor]:
    """The tensors that adapters start from. Raises UserError where the file is not as it was written."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    check(path)
    try:
        found: Mapping[str, torch.Tensor] = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)}); {FIX}") from error
    return found


def judge(job: JudgeJob) -> int:
    """Judge one file of completions; how many stay unscored."""
    assert job.task.kind != "capability"
    before, known = time.perf_counter(), job.verdicts.exists()
    unscored = judge_file(judge_of(job.judge), job.task.kind, job.completions, job.verdicts)
    if not known:
        tell(Done("verdicts", len(read_completions(job.completions)), time.perf_counter() - before))
    return unscored
