"""How much a direction in the residual stream changes what a model is about to say.

After the output scores of Arad et al. 2025 (arXiv 2505.20063): many SAE features describe the input and do nothing when
they are steered along. Here the effect is measured by steering, and not by the logit lens.
"""

from collections.abc import Sequence
from typing import Any

import torch

from sails_eval.methods.subspace.activations import padded
from sails_eval.methods.subspace.contrast import Text
from sails_eval.models.layers import decoder_layers

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
    last = mask.sum(1) - 1
    bare, streams = _said(model, layer, ids, mask, last, torch.zeros_like(directions[:1]))
    length = streams.norm(dim=1).mean()
    effects = []
    for some in torch.split(directions, 16):
        steered = _said(model, layer, ids, mask, last, length * some)[0].view(len(some), *bare.shape)
        effects.append((bare.exp() * (bare - steered)).sum(-1).mean(-1))
    return torch.cat(effects).cpu()


def _said(
    model: Any, layer: int, ids: torch.Tensor, mask: torch.Tensor, last: torch.Tensor, added: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the next token after each text with each vector added [n × texts, vocabulary], and the bare
    stream [n × texts, d_model] where it is added."""
    n, texts = len(added), len(ids)
    rows = torch.arange(n * texts, device=ids.device)
    places = (rows, last.repeat(n))
    streams: list[torch.Tensor] = []

    def steer(module: Any, inputs: Any, output: Any) -> Any:
        stream = (output[0] if isinstance(output, tuple) else output).clone()
        streams.append(stream[places].float())
        stream[places] += added.repeat_interleave(texts, dim=0).to(stream)
        return (stream, *output[1:]) if isinstance(output, tuple) else stream

    with decoder_layers(model)[layer].register_forward_hook(steer):
        logits = model(input_ids=ids.repeat(n, 1), attention_mask=mask.repeat(n, 1), use_cache=False).logits
    return torch.log_softmax(logits[places].float(), dim=-1), streams[0]
