"""forgetting.csv: its rows, and how they are shown."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sails_eval.analyses.finished_run import over_seeds, shown_tables
from sails_eval.core.files import read_table
from sails_eval.core.tables import fitted
from sails_eval.run.folder.run_folder import RunFolder

NAME = "forgetting"


@dataclass(frozen=True)
class ReadingSize:
    """How much of the neutral texts is read, and how.

    The base model's log-probabilities are kept in float32 between cells: 4,096 tokens of a vocabulary of 256,000 take
    4 GB.
    """

    tokens: int = 4096
    max_length: int = 256
    batch_size: int = 8


READING = ReadingSize()


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


def table(rows: Sequence[Forgotten]) -> str:
    """Means over seeds with 95 % t intervals, the method with the lowest KL first."""
    found = []
    for method in dict.fromkeys(row.method for row in rows):
        these = [row for row in rows if row.method == method]
        rates = [row.learning_rate for row in these]
        kl, lost = (over_seeds([getattr(row, key) for row in these], rates) for key in ("kl_nats", "capability_lost"))
        seeds = str(sum(row.seed is not None for row in these))
        found.append((kl.value, [method, kl.clip(0, math.inf).shown("z.4f"), lost.shown(), seeds]))
    lines = [["method", "KL from base (nats per token)", "capability lost", "seeds"]]
    return "\n".join(fitted([*lines, *(cells for _, cells in sorted(found))]))


def shown(run: RunFolder) -> str:
    return shown_tables(run, NAME, lambda path: table(read_table(path, Forgotten)))
