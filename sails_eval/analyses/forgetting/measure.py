"""What fine-tuning cost besides: how far a model moved on neutral text, and the capability that it lost."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import Field

from sails_eval.analyses.finished_run import FinishedRun, SelectedModel, finished_runs
from sails_eval.analyses.forgetting.results import NAME, READING, Forgotten
from sails_eval.core.checksums import write_checked
from sails_eval.core.errors import UserError
from sails_eval.core.files import table_text
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.pair import Pair
from sails_eval.core.records import BASE
from sails_eval.core.schema import Record
from sails_eval.data.reading import pinned
from sails_eval.data.texts import read_texts
from sails_eval.models.identity import model_identity
from sails_eval.run.workers import Workers, workers


class Measured(Record):
    """What was measured of one model."""

    kl_nats: float = Field(description="KL(base ‖ tuned) per token")
    tokens: int = Field(description="over how many")


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
    Measured(kl_nats=kl, tokens=tokens).write(job.path)


def forgetting(run: Path, methods: Sequence[str] = (), *, jobs: int = 1, quiet: bool = False) -> list[Path]:
    """Measure the chosen cells of a finished run whose checkpoints are kept; the forgetting.csv of every sub-run.

    They have the base model and `methods`, all of the run's where there are none. What was measured before stays.
    Raises UserError where the run is not as it was, or a pair has no neutral texts.
    """
    runs = finished_runs(run, methods)
    for one in runs:
        pair = one.plan.pair
        if pair.neutral is None:
            raise UserError(
                f"pair '{pair.name}' has no neutral texts; add 'neutral: FILE' to its YAML, a file whose rows have a "
                "field 'text'"
            )
        read_texts(pair.neutral, most=1)
    with workers(jobs, quiet=quiet) as pool:
        return [_measured(one, pool) for one in runs]


def _measured(finished: FinishedRun, pool: Workers) -> Path:
    finished.warn_of_missing()
    files = finished.run.analysis(NAME)
    with finished.run.locked():
        jobs = list(_jobs(finished))
        pool.map(measure, [job for _, job in jobs], title=f"{finished.plan.folder} KL on neutral text".lstrip())
        base = finished.score(SelectedModel(BASE), "capability")
        rows = [
            Forgotten(*one.place[:3], Measured.read(job.path).kl_nats, base - finished.score(one, "capability"))
            for one, job in jobs
        ]
        write_checked(files.table, table_text(Forgotten, rows))
    return files.table


def _jobs(finished: FinishedRun) -> Iterator[tuple[SelectedModel, Job]]:
    """A job for every model; its file is named after everything that the figure depends on.

    They are in a folder of their own: the run has sealed the bytes of its cells.
    """
    pair, files = finished.plan.pair, finished.run.analysis(NAME)
    pair = pair.model_copy(update={"neutral": pinned(pair.neutral)})
    assert pair.neutral is not None
    same = [model_identity(pair), read_texts(pair.neutral, most=READING.tokens).sha256, asdict(READING)]
    for one in finished.models:
        key = digest([same, of_path(one.checkpoint) if one.checkpoint else None])
        yield one, Job(pair, one.checkpoint, files.measured(one.name, key))
