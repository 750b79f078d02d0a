"""What fine-tuning cost besides: how far a model moved on neutral text, and the capability that it lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sails_eval.analyses.finished_run import Chosen, FinishedPart, finished_parts
from sails_eval.analyses.forgetting.results import COLUMNS, FILE, READING, Forgotten
from sails_eval.core.errors import UserError
from sails_eval.core.files import csv_text, read_json, write_json, write_text
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.pair import Pair
from sails_eval.core.records import BASE
from sails_eval.data.reading import pinned, read_texts
from sails_eval.models.identity import model_identity
from sails_eval.run.workers import Workers, workers

FOLDER = "forgetting"
"""Where the measurements of single cells are; not in the cells' own folders, whose bytes the run has sealed."""


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
    from sails_eval.analyses.forgetting.kl import kl_to_base

    kl, tokens = kl_to_base(job.pair, job.checkpoint, READING)
    write_json(job.path, {"kl_nats": kl, "tokens": tokens}, indent=None)


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
                read_json(job.path)["kl_nats"],
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
