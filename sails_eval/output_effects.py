"""How much a direction in the residual stream changes what a model is about to say.

After the output scores of Arad et al. 2025 (arXiv 2505.20063): many SAE features describe the input and do nothing when
they are steered along. Here the effect is measured by steering, and not by the logit lens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sails_eval.activations import padded
from sails_eval.contrast import Text
from sails_eval.models import decoder_layers

TEXTS = 16
"""How many requests the effect is averaged over."""


@torch.no_grad()
def output_effects(model: Any, layer: int, directions: torch.Tensor, texts: Sequence[Text]) -> torch.Tensor:
    """Mean KL(unsteered ‖ steered) of the next token, in nats, for each of the unit directions [n, d]: [n].

    Where the answer of each of the first texts begins, the direction is added to the residual stream after `layer`, as
    long as that stream is there on average.
    """
    asked = [text.ids[: text.answer.start or None] for text in texts[:TEXTS]]
    ids, mask = padded(asked, model.device)
    last = (torch.arange(len(asked), device=model.device), mask.sum(1) - 1)
    steered: list[torch.Tensor] = []
    lengths: list[torch.Tensor] = []

    def steer(module: Any, inputs: Any, output: Any) -> Any:
        stream = output[0] if isinstance(output, tuple) else output
        lengths.append(stream[last].norm(dim=1).mean())
        if steered:
            stream = stream.clone()
            stream[last] += lengths[0] * steered[-1].to(stream)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    def said() -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return torch.log_softmax(logits[last].float(), dim=-1)

    effects = []
    handle = decoder_layers(model)[layer].register_forward_hook(steer)
    try:
        bare = said()
        for direction in directions:
            steered.append(direction)
            effects.append((bare.exp() * (bare - said())).sum(-1).mean().cpu())
    finally:
        handle.remove()
    return torch.stack(effects)
