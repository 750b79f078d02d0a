"""What fine-tuning cost besides: how far a model moved on neutral text, and the capability that it lost."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sails_eval.aggregate import csv_text, read_csv, restore
from sails_eval.board import aligned
from sails_eval.chosen import Chosen, FinishedPart, finished_parts, interval_cell, over_seeds
from sails_eval.config import Pair
from sails_eval.data import pinned, read_texts
from sails_eval.errors import UserError
from sails_eval.fingerprint import digest, model_identity, of_path
from sails_eval.records import BASE, write_text
from sails_eval.workers import Workers, workers

FILE = "forgetting.csv"
FOLDER = "forgetting"
"""Where the measurements of single cells are; not in the cells' own folders, whose bytes the run has sealed."""


@dataclass(frozen=True)
class Reading:
    """How much of the neutral texts is read, and how.

    The base model's log-probabilities are kept in float32 between cells: 4,096 tokens of a vocabulary of 256,000 take
    4 GB.
    """

    tokens: int = 4096
    max_length: int = 256
    batch_size: int = 8


READING = Reading()


@dataclass(frozen=True)
class Forgotten:
    """A row of forgetting.csv: KL(base ‖ tuned) in nats per token of neutral text, and capability below the base's.

    `capability_lost` is NaN where the run has no capability task.
    """

    method: str
    seed: int | None
    learning_rate: float | None
    kl_nats: float
    capability_lost: float


COLUMNS = tuple(Forgotten.__dataclass_fields__)


@dataclass(frozen=True)
class Job:
    """Measure one model (None: the base model itself), and say so in a JSON file."""

    pair: Pair
    checkpoint: Path | None
    path: Path


def measure(job: Job) -> None:
    """Once per cell, in a worker process."""
    if job.path.exists():
        return
    from sails_eval.divergence import kl_to_base

    kl, tokens = kl_to_base(job.pair, job.checkpoint, READING)
    write_text(job.path, json.dumps({"kl_nats": kl, "tokens": tokens}) + "\n")


def forgetting(run: Path, methods: Sequence[str] = (), *, jobs: int = 1, quiet: bool = False) -> list[Path]:
    """Measure the chosen cells of a finished run whose checkpoints are kept; the forgetting.csv of every part.

    They have the base model and `methods`, all of the run's where there are none. What was measured before stays.
    Raises UserError where the run is not as it was, or a pair has no neutral texts.
    """
    parts = finished_parts(run, methods)
    for part in parts:
        pair = part.part.setup.pair
        if pair.neutral is None:
            raise UserError(
                f"pair '{pair.name}' has no neutral texts; give its YAML 'neutral: FILE', with rows of a text"
            )
        read_texts(pair.neutral, most=1)
    with workers(jobs, quiet=quiet) as pool:
        return [_of_part(part, pool) for part in parts]


def _of_part(part: FinishedPart, pool: Workers) -> Path:
    part.warn_of_missing()
    with part.locked():
        jobs = _jobs(part)
        pool.map(measure, [job for _, job in jobs], title=f"{part.title} KL on neutral text".lstrip())
        base = part.score(Chosen(BASE), "capability")
        rows = [
            Forgotten(
                one.method,
                one.seed,
                one.learning_rate,
                json.loads(job.path.read_text(encoding="utf-8"))["kl_nats"],
                base - part.score(one, "capability"),
            )
            for one, job in jobs
        ]
        path = part.folder / FILE
        write_text(path, csv_text(COLUMNS, [tuple(asdict(row).values()) for row in rows]))
    return path


def _jobs(part: FinishedPart) -> list[tuple[Chosen, Job]]:
    """A job for every model; its file is called after all that the figure hangs on."""
    pair = part.part.setup.pair
    pair = pair.model_copy(update={"neutral": pinned(pair.neutral)})
    assert pair.neutral is not None
    same = [model_identity(pair), read_texts(pair.neutral, most=READING.tokens).sha256, asdict(READING)]
    found = []
    for one in part.chosen:
        key = digest([same, of_path(one.checkpoint) if one.checkpoint else None])
        found.append((one, Job(pair, one.checkpoint, part.folder / FOLDER / f"{one.name}-{key[:8]}.json")))
    return found


def read(path: Path) -> list[Forgotten]:
    """Read forgetting.csv back. Raises UserError where it is none."""
    header, lines = read_csv(path)
    if header != list(COLUMNS):
        raise UserError(f"{path}:1: expected the columns {', '.join(COLUMNS)}")
    rows = []
    for _, (method, seed, rate, kl, lost) in lines:
        key = restore(method), int(seed) if seed else None, float(rate) if rate else None
        rows.append(Forgotten(*key, float(kl), float(lost) if lost else math.nan))
    return rows


def table(rows: Sequence[Forgotten]) -> str:
    """Means over seeds with 95 % t intervals, the least forgetful method first."""
    methods = dict.fromkeys(row.method for row in rows)
    found = []
    for method in methods:
        these = [row for row in rows if row.method == method]
        rates = [row.learning_rate for row in these]
        kl, lost = (over_seeds([getattr(row, key) for row in these], rates) for key in ("kl_nats", "capability_lost"))
        seeds = str(sum(row.seed is not None for row in these))
        found.append((kl.value, [method, interval_cell(kl.clip(0, math.inf), 4), interval_cell(lost), seeds]))
    lines = [["method", "KL from base (nats per token)", "capability lost", "seeds"]]
    return "\n".join(aligned([*lines, *(cells for _, cells in sorted(found))]))


def shown(run: Path) -> str:
    """The tables of a run, or of each of its parts; empty where nothing was measured."""
    files = [*run.glob(FILE), *sorted(run.glob(f"*/{FILE}")), *sorted(run.glob(f"*/*/{FILE}"))]
    titles = [str(file.parent.relative_to(run)) for file in files]
    return "\n\n".join(
        f"Forgetting{'' if title == '.' else f', {title}'}\n{table(read(file))}"
        for title, file in zip(titles, files, strict=True)
    )
