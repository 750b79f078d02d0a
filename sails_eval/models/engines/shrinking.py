"""Batches of answers that get smaller: rows that are finished leave, and the others cost as much as they alone do.

Without it a batch of transformers costs as much until its longest answer ends as at its beginning.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

SHRUNK = 0.75
"""From this share of the rows on it is worth copying the cache without those that are finished."""


@contextmanager
def shrinking(model: Any, ends: Sequence[int]) -> Iterator[None]:
    """Inside, `model.generate` leaves out rows whose last token is one of `ends`, of which the first ends an answer.

    What the model says of the other rows changes by rounding alone. Caches other than those that just grow, and prompts
    that are being read, are left as they are.
    """
    forward, had, batch = model.forward, "forward" in vars(model), _Batch(ends)

    @wraps(forward)
    def smaller(*args: Any, **given: Any) -> Any:
        ids, cache = given.get("input_ids"), given.get("past_key_values")
        if args or ids is None or ids.shape[1] != 1 or not _grows(cache):
            batch.rows = None
            return forward(*args, **given)
        rows = batch.left(ids[:, 0], cache)
        if len(rows) == len(ids):
            return forward(**given)
        said = forward(**{name: _of_rows(value, rows, len(ids)) for name, value in given.items()})
        said["logits"] = batch.spread(said["logits"], rows, len(ids))
        return said

    model.forward = smaller
    try:
        yield
    finally:
        if had:
            model.forward = forward
        else:
            del model.forward


class _Batch:
    """Which rows of a batch the cache still has; None where it has all."""

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = list(ends)
        self.rows: torch.Tensor | None = None

    def left(self, last: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        """The rows that are computed, of those whose tokens [rows] are `last`; the cache has these afterwards."""
        rows = torch.arange(len(last), device=last.device) if self.rows is None else self.rows
        going_on = ~torch.isin(last[rows], torch.tensor(self._ends, device=last.device))
        if 0 < int(going_on.sum()) <= SHRUNK * len(rows):
            kept = going_on.nonzero().flatten()
            cache.batch_select_indices(kept)
            rows = rows[kept]
        self.rows = rows
        return rows

    def spread(self, logits: torch.Tensor, rows: torch.Tensor, whole: int) -> torch.Tensor:
        """The logits [rows, 1, vocabulary] for the whole batch; those that left it say that they are at their end."""
        full = logits.new_full((whole, *logits.shape[1:]), -1e4)
        full[:, :, self._ends[0]] = 0.0
        full[rows] = logits
        return full


def _grows(cache: Any) -> bool:
    """Whether a cache has tokens, and all that it does with new ones is to keep them."""
    return (
        isinstance(cache, DynamicCache)
        and cache.get_seq_length() > 0
        and all(isinstance(layer, DynamicLayer) for layer in cache.layers)
    )


def _of_rows(value: Any, rows: torch.Tensor, whole: int) -> Any:
    """What a batch of `whole` rows gives the model, for some of them."""
    return value[rows] if isinstance(value, torch.Tensor) and value.dim() > 1 and len(value) == whole else value
