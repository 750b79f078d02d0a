"""Which modules of a model read the residual stream and which write to it, found by what they do.

One decoder layer is looked at while the model reads a few tokens. A module writes if what is added to its output comes
out of the layer; it reads if its input is the stream that came into the layer, or that stream with what was written.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import yaml

from sails_eval.core.architecture import Architecture
from sails_eval.core.pair import Pair
from sails_eval.models.adapters import is_target
from sails_eval.models.layers import LINEAR, architecture_of, decoder_layers, is_unlisted

TOKENS = 8
"""Read at once, drawn at random."""

DIRECTIONS = 16
"""Along which a module's output is pushed, at random."""

ALIKE = 0.5
"""The least mean cosine of a push and what comes out of the layer; of random directions it is within 0.1 of 0, and the
MLP's answer to what the attention writes leaves it above 0.7 as long as that is the smaller part."""

PUSH = 0.05
"""The length of a push as a share of the stream's."""

Seen = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""The input and the output of modules, by their paths in the layer; of the layer itself by ''."""


@torch.no_grad()
def found_by_doing(model: Any) -> Architecture:
    """The readers and writers of a loaded model's decoder layer in the middle, each with its norm."""
    layers = decoder_layers(model)
    layer: Any = layers[len(layers) // 2]
    modules = dict(layer.named_modules())
    linear = {path: module for path, module in modules.items() if isinstance(module, LINEAR)}
    norms = {path: module for path, module in modules.items() if path and "norm" in type(module).__name__.lower()}
    rows = model.get_input_embeddings().weight.shape[0]
    drawn = torch.randint(rows, (1, TOKENS), generator=torch.Generator().manual_seed(0)).to(model.device)
    ids = drawn.repeat(DIRECTIONS, 1)
    with _watched({**linear, **norms, "": layer}) as seen:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    (stream, out), writers, written = seen[""], dict[str, str | None](), list[torch.Tensor]()
    wide = [path for path in linear if path in seen and seen[path][1].numel() == stream.numel()]
    for path in (path for path in wide if _comes_out(model, layer, linear[path], ids, out)):
        writers[path] = next((name for name in norms if name in seen and _same(seen[name][0], seen[path][1])), None)
        written.append(seen[writers[path] or path][1].reshape(stream.shape))
    readers: dict[str, str | None] = {}
    for path in linear.keys() & seen.keys() - writers.keys():
        told = seen[path][0]
        before = next((name for name in norms if name in seen and _same(seen[name][1], told)), None)
        if _is_stream(seen[before][0] if before else told, stream, written):
            readers[path] = before
    return Architecture(readers=dict(sorted(readers.items())), writers=writers)


def doubts(model: Any, pair: Pair) -> Iterator[str]:
    """What a loaded model's target modules do otherwise than is told of them, where that is not told by the table."""
    told = architecture_of(model)
    if told.refused or not (pair.architecture or is_unlisted(model)):
        return
    found, layers = found_by_doing(model), decoder_layers(model)
    for path, module in layers[len(layers) // 2].named_modules():
        place, seen = told.place(path), found.place(path)
        if place is None or not isinstance(module, LINEAR) or not is_target(path, pair):
            continue
        if seen is None or seen[0] != place[0]:
            does = {True: "writes to the residual stream", False: "reads the residual stream"}
            instead = does[seen[0]] if seen else "is seen to do neither"
            yield (
                f"target module '{path}' {does[place[0]]} by what is told of this architecture, but {instead} (found "
                f"by what modules do: {in_yaml(found)})"
            )


def in_yaml(found: Architecture) -> str:
    """An architecture as a line for a pair's YAML."""
    told = {"architecture": found.model_dump(include={"readers", "writers"})}
    return yaml.safe_dump(told, default_flow_style=True, sort_keys=False, width=10**6).strip()[1:-1]


def _comes_out(model: Any, layer: Any, module: Any, ids: torch.Tensor, before: torch.Tensor) -> bool:
    """Whether what is added to a module's output at the last token comes out of the layer, as it came out `before`."""
    out = before[:, -1].float()
    push = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    push = push / push.norm(dim=1, keepdim=True) * PUSH * out.norm(dim=1, keepdim=True)

    def pushed(_: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone().reshape(*ids.shape, -1)
        changed[:, -1] += push.to(changed)
        return changed.reshape(output.shape)

    handle = module.register_forward_hook(pushed)
    try:
        with _watched({"": layer}) as found:
            model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    finally:
        handle.remove()
    moved = found[""][1][:, -1].float() - out
    return bool(torch.nn.functional.cosine_similarity(moved, push, dim=1).mean() > ALIKE)


def _is_stream(read: torch.Tensor, stream: torch.Tensor, written: Sequence[torch.Tensor]) -> bool:
    """Whether what is read is the stream, or that with a multiple of what was written (Granite has a factor), or what
    came out of a norm behind both (OPT-350M)."""
    if _same(read, stream):
        return True
    if read.numel() != stream.numel():
        return False
    more = (read.reshape(stream.shape) - stream).float()
    times = [(more * one).sum() / one.float().square().sum() for one in written]
    return any(_same(more, c * one) or _same(read, one) for c, one in zip(times, written, strict=True))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same numbers, whatever their shapes, up to rounding."""
    if one.numel() != other.numel():
        return False
    return torch.allclose(one.flatten().float(), other.flatten().float(), rtol=1e-2, atol=1e-4)


@contextmanager
def _watched(modules: Mapping[str, Any]) -> Iterator[Seen]:
    """The first input and the output of every module in a forward pass of the block."""
    seen: Seen = {}

    def keep(path: str, module: Any, inputs: Any, kwargs: Any, output: Any) -> None:
        first = next(value for value in (*inputs, *kwargs.values()) if isinstance(value, torch.Tensor))
        seen[path] = first.clone(), (output[0] if isinstance(output, tuple) else output).clone()

    handles = [module.register_forward_hook(partial(keep, path), with_kwargs=True) for path, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
