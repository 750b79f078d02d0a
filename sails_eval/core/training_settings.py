"""What is the same for all methods of a comparison and can be set: the optimiser, and what regularises training.

Both belong to the pair; no recipe can set them.
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.schema import Frozen

Match = Literal["tokens", "flops", "seconds"]
"""What every cell of a comparison gets the same amount of."""


class Optimiser(Frozen):
    """Optimiser, schedule, clipping and decay, by the names that transformers' TrainingArguments have for them."""

    optim: str = "adamw_torch"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")
    lr_scheduler_type: str = "linear"
    warmup_steps: float = Field(default=0.1, ge=0, description="steps, or below 1 a share of them all")


class Regularise(Frozen):
    """What is added to the loss of every method.

    `kl` is λ in λ · KL(base ‖ model), the mean over the answer tokens of a batch.
    """

    kl: float = Field(description="λ, above 0")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not 0 < self.kl < math.inf:
            raise UserError(
                f"regularise: kl is {self.kl:g}, which is no λ above 0; to train without it leave it out, here and in "
                "the pair's key 'regularise'"
            )
        return self

    def __str__(self) -> str:
        return f"kl={self.kl:g}"


def parse_regularise(text: str) -> dict[str, str]:
    """`kl=0.1` as a mapping for `Regularise`. Raises UserError for another form or an unknown name."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UserError(f"--regularise {text}: not of the form NAME=VALUE, such as kl=0.1")
    if name not in Regularise.model_fields:
        raise unknown("regulariser", name, Regularise.model_fields)
    return {name: value}


Objective = Literal["sft", "dpo"]
"""The cross-entropy of chosen answers, or preferring them over rejected ones."""
