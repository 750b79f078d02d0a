"""What a model's layers hold at chosen tokens: residual streams, their means per text, and the moments of those."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from sails_eval.core.errors import UserError
from sails_eval.methods.subspace.contrast import Contrast, Text
from sails_eval.methods.subspace.settings import Positions
from sails_eval.methods.subspace.text_windows import Window
from sails_eval.models.layers import decoder_layers

Read = Callable[[int, torch.Tensor], torch.Tensor]
"""What is read off a layer's residual stream: (layer, vectors [tokens, d_model]) → values [tokens, width]."""


def stream(layer: int, vectors: torch.Tensor) -> torch.Tensor:
    """The residual stream itself."""
    return vectors


OUTLIER = 10.0
"""Tokens whose residual stream is longer than so many times the median are of another kind: models park attention at a
few tokens, above all the first, with activations a hundred times as large ("massive activations")."""

PADDED = 4_096
"""Tokens of a forward pass, padding included."""


Item = TypeVar("Item")


@dataclass(frozen=True)
class Moments:
    """How many rows there were, the sums of their values and of their squares, in double precision."""

    n: int
    total: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(cls, rows: torch.Tensor) -> Moments:
        """The moments of rows [n, width]."""
        rows = rows.double()
        return cls(len(rows), rows.sum(0), rows.square().sum(0))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> torch.Tensor:
        return self.total / self.n

    @property
    def variance_of_mean(self) -> torch.Tensor:
        """The unbiased variance of the rows over n; NaN below two rows."""
        spread = (self.squares - self.n * self.mean.square()).clamp_min(0)
        return spread / (self.n * (self.n - 1)) if self.n > 1 else torch.full_like(self.total, torch.nan)


LayerSide = tuple[int, str]
"""A layer and the class of its rows: "aligned", "unaligned", or the "difference" of pairs."""


def moments(batches: Iterable[Mapping[LayerSide, torch.Tensor]]) -> dict[LayerSide, Moments]:
    """The moments of batches of rows, by their key."""
    found: dict[LayerSide, Moments] = {}
    for batch in batches:
        found = merged(found, {key: Moments.of(rows) for key, rows in batch.items()})
    return found


def merged(one: Mapping[LayerSide, Moments], other: Mapping[LayerSide, Moments]) -> dict[LayerSide, Moments]:
    """The moments of the rows of both."""
    return {**one, **{key: one[key] + part if key in one else part for key, part in other.items()}}


def stacked(batches: Iterable[Mapping[LayerSide, torch.Tensor]]) -> dict[LayerSide, torch.Tensor]:
    """The rows of all batches [n, width], by their key."""
    found: dict[LayerSide, list[torch.Tensor]] = {}
    for batch in batches:
        for key, rows in batch.items():
            found.setdefault(key, []).append(rows)
    return {key: torch.cat(rows) for key, rows in found.items()}


def contrast_means(
    model: Any, layers: Sequence[int], contrast: Contrast, *, positions: Positions, read: Read = stream
) -> Iterator[dict[LayerSide, torch.Tensor]]:
    """Batches of per-text means [batch, width]; of pairs a batch holds both sides and their difference, row for row."""
    contrast = contrast.by_length()
    aligned, unaligned = (
        text_means(model, layers, texts, positions=positions, read=read)
        for texts in (contrast.aligned, contrast.unaligned)
    )
    if not contrast.paired:
        yield from ({(layer, "aligned"): rows for layer, rows in batch.items()} for batch in aligned)
        yield from ({(layer, "unaligned"): rows for layer, rows in batch.items()} for batch in unaligned)
        return
    for one, other in zip(aligned, unaligned, strict=True):
        difference = {layer: one[layer] - other[layer] for layer in layers}
        sides = {"aligned": one, "unaligned": other, "difference": difference}
        yield {(layer, kind): rows[layer] for layer in layers for kind, rows in sides.items()}


@torch.no_grad()
def text_means(
    model: Any,
    layers: Sequence[int],
    texts: Sequence[Text],
    *,
    positions: Positions,
    read: Read = stream,
    batch_size: int = 32,
) -> Iterator[dict[int, torch.Tensor]]:
    """Batches of what is read at `layers` (ascending), averaged over each text's counted tokens: [batch, width].

    Only the counted tokens are read, so neither the template's nor padding make a difference.
    """
    for first in range(0, len(texts), batch_size):
        batch = texts[first : first + batch_size]
        ids, mask = padded([text.ids for text in batch], model.device)
        counted = torch.zeros_like(mask, dtype=torch.bool)
        for row, text in enumerate(batch):
            counted[row, text.positions(positions)] = True
        rows = counted.nonzero()[:, 0]  # the text of each counted token
        weights = (rows == torch.arange(len(batch), device=rows.device)[:, None]) / counted.sum(1, keepdim=True)
        means = {}
        for layer, vectors in residual_streams(model, layers, ids, mask):
            values = read(layer, vectors[counted]).float()  # means of half-precision numbers would be rounded
            means[layer] = (weights.to(values) @ values).cpu()
        yield means


def residual_streams(
    model: Any, layers: Sequence[int], ids: torch.Tensor, mask: torch.Tensor
) -> list[tuple[int, torch.Tensor]]:
    """The residual stream [batch, tokens, d_model] after each of `layers` (ascending); later layers don't run."""
    found: list[tuple[int, torch.Tensor]] = []
    modules = decoder_layers(model)

    def keep(layer: int, module: Any, inputs: Any, output: Any) -> None:
        found.append((layer, output[0] if isinstance(output, tuple) else output))
        if layer == layers[-1]:
            raise _EnoughSeenError

    with ExitStack() as hooks, suppress(_EnoughSeenError):
        for layer in layers:
            hooks.enter_context(modules[layer].register_forward_hook(partial(keep, layer)))
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    return found


@torch.inference_mode()
def activations(model: Any, layers: Sequence[int], windows: Sequence[Window]) -> dict[int, torch.Tensor]:
    """The residual stream after each layer at the counted tokens of windows: float32 [n, d_model], row for row.

    Tokens that are outliers at any of the layers are left out. Raises UserError where the model overflows.
    """
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    for batch in like_long(windows, lambda window: len(window.ids)):
        ids, mask = padded([list(window.ids) for window in batch], model.device)
        counted = mask.bool()
        for row, window in enumerate(batch):
            counted[row, : window.start] = False
        for layer, vectors in residual_streams(model, sorted(layers), ids, mask):
            found[layer].append(vectors[counted].float())
    rows = {layer: torch.cat(parts) for layer, parts in found.items()}
    if strange := [layer for layer, vectors in rows.items() if vectors.isnan().any()]:
        raise UserError(f"the model's activations after layer {min(strange)} are not finite; give another --dtype")
    usual = torch.stack([is_usual(vectors) for vectors in rows.values()]).all(0)
    return {layer: vectors[usual] for layer, vectors in rows.items()}


def is_usual(vectors: torch.Tensor) -> torch.Tensor:
    """Which rows [n] of activations [n, d_model] are no outliers."""
    norms = vectors.norm(dim=1)
    usual: torch.Tensor = norms <= OUTLIER * norms.median()
    return usual


def like_long(items: Iterable[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Batches of like length and of up to `PADDED` tokens, so that little is padding."""
    batch: list[Item] = []
    for item in sorted(items, key=length):
        if batch and length(item) * (len(batch) + 1) > PADDED:
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


class _EnoughSeenError(Exception):
    """Ends a forward pass after the last layer of interest."""


def padded(texts: Sequence[list[int]], device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and the attention mask."""
    width = max(map(len, texts))
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(texts):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return ids.to(device), mask.to(device)
