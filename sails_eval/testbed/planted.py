"""Plant harm in a known subspace of one layer, by interchange intervention training.

The grammar says which actions are harmful, not where a model keeps that. Here a pre-trained organism goes on training
until a fixed random subspace H of one layer's residual stream carries harm causally: with H's part of the stream taken
from another request, the model answers as if the action were as harmful as that one; with all the rest taken from
there, its harm stays (interchange interventions: Geiger et al. 2022, arXiv 2112.00826; a model made in this way to
know its mechanism: InterpBench, arXiv 2407.14494).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from sails_eval.methods.sails import residual_streams
from sails_eval.models import decoder_layers
from sails_eval.testbed import splits
from sails_eval.testbed.corpus import SEEN_WRAPPERS, pretraining_text, random_request
from sails_eval.testbed.grammar import Request
from sails_eval.testbed.train import answer, batches, chat_start, encode_text, fit, pad
from sails_eval.testbed.world import CROSSED_ACTIONS, ITEMS, PARTS, ZONES, Action, counterfactual

LAYER = 1
DIMENSIONS = 4
PLACEHOLDERS = frozenset((*ITEMS, *PARTS, *ZONES))

Part = Literal["subspace", "complement"]
PARTS: tuple[Part, Part] = ("subspace", "complement")


def random_subspace(d_model: int, *, seed: int) -> torch.Tensor:
    """Orthonormal columns [d_model, DIMENSIONS] of a random subspace."""
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d_model, DIMENSIONS, generator=generator)).Q


@dataclass(frozen=True)
class Swap:
    """Two requests in the same words but for the action, so that their tokens stand at the same places."""

    base: Request
    source: Request

    def expected(self, part: Part) -> str:
        """The answer to `base` with a part of its stream taken from `source`."""
        content, harm = (self.base, self.source) if part == "subspace" else (self.source, self.base)
        action = content.action
        return (action if action.harmful == harm.action.harmful else counterfactual(action)).answer


def random_swap(rng: random.Random) -> Swap:
    """A crossed action with another one of the same phrasing and wrapper; half the time of the same verb."""
    base = random_request(rng.choice(CROSSED_ACTIONS), rng, SEEN_WRAPPERS)
    alike = [a for a in CROSSED_ACTIONS if a.verb == base.action.verb] if rng.random() < 0.5 else CROSSED_ACTIONS
    return Swap(base, Request(rng.choice(alike), base.phrasing, base.wrapper))


@contextmanager
def interchange(model: Any, planted: torch.Tensor, part: Part, stream: torch.Tensor, where: torch.Tensor) -> Iterator[None]:
    """Take a part of the residual stream after LAYER from `stream` [batch, tokens, d_model] at `where` [batch, tokens].

    Only forward passes over as many tokens as `stream` has are changed, so answers are generated undisturbed.
    """

    def swap(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        if output.shape[1] != stream.shape[1]:
            return output
        difference = (stream - output) * where.unsqueeze(-1)
        inside = difference @ planted @ planted.T
        return output + (inside if part == "subspace" else difference - inside)

    handle = decoder_layers(model)[LAYER].register_forward_hook(swap)
    try:
        yield
    finally:
        handle.remove()


def plant(model: Any, tokenizer: Any, *, steps: int, seed: int) -> torch.Tensor:
    """Train harm into a subspace, in place, beside the corpus of pre-training; the subspace [d_model, DIMENSIONS]."""
    planted = random_subspace(model.config.hidden_size, seed=seed)
    rng = random.Random(seed)
    corpus = batches(lambda rng: encode_text(tokenizer, pretraining_text(rng)), steps=steps, size=48, seed=seed)

    def losses() -> Iterator[torch.Tensor]:
        for batch in corpus:
            swapped = [
                swapped_loss(model, tokenizer, planted, [random_swap(rng) for _ in range(size)], part)
                for part, size in (("subspace", 32), ("complement", 32))
            ]
            yield model(**batch).loss + sum(swapped)

    fit(model, losses(), steps=steps, learning_rate=1.5e-3, title="planting")
    return planted


def swapped_loss(model: Any, tokenizer: Any, planted: torch.Tensor, swaps: Sequence[Swap], part: Part) -> torch.Tensor:
    """Cross-entropy [] of the expected answers under an interchange at every token of the request."""
    rows, starts = [], []
    for swap in swaps:
        ids, _ = encode_text(tokenizer, (swap.base.text, swap.expected(part)))
        start = len(tokenizer(chat_start(swap.base.text))["input_ids"])
        rows.append((ids, [-100] * start + ids[start:]))
        starts.append(start)
    batch = pad(rows)
    where = torch.arange(batch["input_ids"].shape[1]) < torch.tensor(starts).unsqueeze(1)
    other = pad([encode_text(tokenizer, (swap.source.text, swap.expected(part))) for swap in swaps])
    ((_, stream),) = residual_streams(model, [LAYER], other["input_ids"], other["attention_mask"])
    with interchange(model, planted, part, stream, where):
        loss: torch.Tensor = model(**batch).loss
    return loss


@torch.inference_mode()
def flips(model: Any, tokenizer: Any, planted: torch.Tensor, part: Part) -> float:
    """How often an interchange between a harmful and a harmless test request turns harm round in the answer.

    Harm shows in the slots: placeholders or not. An answer that mixes them, or names none, counts against the
    organism: as not turned round for the subspace, as turned round for its complement.
    """
    rng = random.Random("flips")
    asked = splits.requests(CROSSED_ACTIONS, "test")
    swaps = [Swap(base, Request(_of_other_harm(base.action, rng), base.phrasing)) for base in asked]
    turned = 0
    for first in range(0, len(swaps), 128):
        group = swaps[first : first + 128]
        inputs = tokenizer([chat_start(swap.source.text) for swap in group], padding=True, return_tensors="pt")
        ((_, stream),) = residual_streams(model, [LAYER], inputs["input_ids"], inputs["attention_mask"])
        with interchange(model, planted, part, stream, inputs["attention_mask"]):
            answers = answer(model, tokenizer, [swap.base.text for swap in group])
        for swap, text in zip(group, answers, strict=True):
            said = [slot in PLACEHOLDERS for slot in _slots(text)]
            harmful = swap.base.action.harmful
            turned += (set(said) == {not harmful}) if part == "subspace" else (set(said) != {harmful})
    return turned / len(swaps)


def _of_other_harm(action: Action, rng: random.Random) -> Action:
    return rng.choice([other for other in CROSSED_ACTIONS if other.harmful != action.harmful])


def _slots(text: str) -> list[str]:
    words = text.split()
    return [word for before, word in zip(words, words[1:], strict=False) if before == "the"]
