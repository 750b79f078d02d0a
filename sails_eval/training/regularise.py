"""What is added to the loss of every method alike: λ · KL(base ‖ model) per answer token of the batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import kl_div

from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.methods.subspace.prepare import changes_base
from sails_eval.models.base import dtype_of

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class KlPenalty:
    """λ and the base model: `frozen`, a copy of what is trained at step 0, or None for an adapter's own base."""

    weight: float
    frozen: Any = None

    @classmethod
    def of(cls, model: Any, pair: Pair, recipe: Recipe) -> KlPenalty:
        """The penalty of a model at step 0, before a trainer has it.

        An adapter whose initialisation changes the base weights answers as the base does with it, not without it.
        """
        assert pair.regularise is not None
        if not changes_base(pair, recipe):
            return cls(pair.regularise.kl)
        frozen = deepcopy(model).requires_grad_(False).eval()
        for weight in frozen.parameters():
            weight.data = weight.data.to(dtype_of(pair))
        return cls(pair.regularise.kl, frozen)

    def __call__(self, model: Any, inputs: Mapping[str, Any], answer: torch.Tensor, n: Any = None) -> torch.Tensor:
        """λ · Σ KL(base ‖ model) / n over the tokens where `answer` [batch, tokens] is true; n is their number if None.

        Both read the whole batch once more, for the distributions over the vocabulary [answer tokens, vocabulary].
        """
        asked = {name: inputs[name] for name in MODEL_INPUTS if name in inputs}
        foretold = answer[:, 1:]  # by the position before
        with torch.no_grad(), self._base(model) as base:
            expected = base(**asked, use_cache=False).logits[:, :-1][foretold].float().log_softmax(-1)
        said = model(**asked, use_cache=False).logits[:, :-1][foretold].float().log_softmax(-1)
        divergence = kl_div(said, expected, log_target=True, reduction="sum")
        return self.weight * divergence / (foretold.sum() if n is None else n)

    @contextmanager
    def _base(self, model: Any) -> Iterator[Any]:
        if self.frozen is not None:
            yield self.frozen
            return
        modes = [(module, module.training) for module in model.modules()]
        with frozen_stays(model), model.disable_adapter():
            yield model.eval()  # without dropout
        for module, training in modes:
            module.training = training


@contextmanager
def frozen_stays(model: Any) -> Iterator[None]:
    """What an initialisation froze stays so, where adapters are switched inside the block: PEFT frees all of them."""
    trained = [(weight, weight.requires_grad) for weight in model.parameters()]
    yield
    for weight, was in trained:
        weight.requires_grad_(was)


class Regularised:
    """A trainer that adds a penalty to its loss, where it has one; to be inherited from before a trainer of TRL."""

    penalty: KlPenalty | None = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The trainer's own loss, with the penalty."""
        with frozen_stays(model):  # DPO asks its reference
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)  # type: ignore[misc]
        if self.penalty is None:
            return loss
        answer = inputs["labels"] != -100 if "labels" in inputs else inputs["completion_mask"] == 1
        return loss + self.penalty(model, inputs, answer, num_items_in_batch)
