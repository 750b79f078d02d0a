"""Krippendorff's α: how far several judges agree beyond chance, whatever votes are missing."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Level = Literal["nominal", "ordinal"]
"""Of measurement: whether values only differ, or have an order, too."""


def krippendorff_alpha(votes: Iterable[Sequence[int | str | None]], level: Level) -> float:
    """α of the votes on each answer, one a judge; None is a missing one, and answers with fewer than two don't count.

    NaN where no two votes can be compared, or all are the same: then nothing could show whether the judges tell answers
    apart. Krippendorff, Content Analysis, 2nd edition (2004), section 11.3: the coincidences of values within answers
    against those expected by chance, each weighted by how far the values are apart.
    """
    said = [[one for one in of_one if one is not None] for of_one in votes]
    values = sorted(
        {one for of_one in said if len(of_one) > 1 for one in of_one}, key=lambda one: (str(type(one)), one)
    )
    if len(values) < 2:
        return math.nan
    coincidences = np.zeros((len(values), len(values)))
    for of_one in said:
        if len(of_one) > 1:
            counts = np.array([of_one.count(value) for value in values], dtype=float)
            coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(of_one) - 1)
    totals = coincidences.sum(axis=0)
    apart = _ranks_apart(totals) if level == "ordinal" else 1 - np.eye(len(values))
    expected = np.outer(totals, totals) / (totals.sum() - 1)
    return float(1 - (coincidences * apart).sum() / (expected * apart).sum())


def _ranks_apart(totals: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The squared distance of each two values: how many votes lie between the middles of their ranks."""
    middles = totals.cumsum() - totals / 2
    return np.asarray((middles[:, None] - middles[None, :]) ** 2)
