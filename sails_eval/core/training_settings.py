"""What is the same for all methods of a comparison and can be set: the optimiser, and what regularises training.

Both belong to the pair, as do the `Settings` that a comparison may override; no recipe can set them.
"""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.names import listed
from sails_eval.core.schema import Frozen

Match = Literal["tokens", "flops", "seconds"]
"""What every cell of a comparison gets the same amount of."""


class Optimiser(Frozen):
    """Optimiser, schedule, clipping and decay, by the names that transformers' TrainingArguments have for them."""

    optim: str = "adamw_torch"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0, description="norm to which gradients are clipped")
    lr_scheduler_type: str = "linear"
    warmup_steps: float = Field(default=0.1, ge=0, description="warm-up in steps, or below 1 as a share of all steps")


class Regularise(Frozen):
    """What is added to the loss of every method.

    `kl` is λ in λ · KL(base ‖ model), the mean over the answer tokens of a batch.
    """

    kl: float = Field(description="λ, above 0")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not 0 < self.kl < math.inf:
            raise UserError(
                f"regularise: kl is {self.kl:g}, but must be above 0; to train without it, leave it out here and in "
                "the pair's key 'regularise'"
            )
        return self

    def __str__(self) -> str:
        return f"kl={self.kl:g}"


def parse_regularise(text: str) -> dict[str, str]:
    """`kl=0.1` as a mapping for `Regularise`. Raises UserError for another form or an unknown name."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UserError(f"--regularise {text}: expected NAME=VALUE, such as kl=0.1")
    if name not in Regularise.model_fields:
        raise unknown("regulariser", name, Regularise.model_fields)
    return {name: value}


Objective = Literal["sft", "dpo"]
"""The cross-entropy of chosen answers, or preferring them over rejected ones."""


# --- settings of a pair that flags and config keys override ---------------------------------------------------------

AUTO = "auto"

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""What weights are loaded as; auto: bfloat16 on a GPU that computes in it, else float32."""

Positive = Annotated[int, Field(ge=1, le=10**9)]

Rank = Annotated[int, Field(ge=1, le=2**16)]

Length = Annotated[int, Field(ge=8, le=10**7)]

Names = Annotated[tuple[str, ...], BeforeValidator(listed)]
"""Names as a list, or as one text with commas or spaces between them."""


def _none_of_auto(value: Any) -> Any:
    return None if value == AUTO else value


AutoSize = Annotated[Positive | None, BeforeValidator(_none_of_auto)]
"""A number, or None for auto."""

AutoSwitch = Annotated[bool | None, BeforeValidator(_none_of_auto)]
"""On or off, or None for auto: where it is needed."""


MEMORY = ("micro_batch_size", "gradient_checkpointing")
"""Settings that trade time for memory, and change results by rounding alone."""


class Settings(Frozen):
    """What a comparison may set instead of the pair, under the pair's own names; None: as the pair has it."""

    dtype: Dtype | None = None
    attn_implementation: str | None = None
    rank: Rank | None = None
    alpha: Positive | None = None
    target_modules: Names | None = None
    max_length: Length | None = None
    max_new_tokens: Positive | None = None
    batch_size: Positive | None = None
    micro_batch_size: Positive | Literal["auto"] | None = None
    gradient_checkpointing: bool | Literal["auto"] | None = None
    eval_batch_size: Positive | Literal["auto"] | None = None
    end_loops: bool | None = None

    @property
    def overrides(self) -> dict[str, Any]:
        """Those that are given."""
        return self.model_dump(mode="json", include=set(Settings.model_fields), exclude_none=True)

    @property
    def telling(self) -> dict[str, Any]:
        """Those of them that results depend on."""
        return {key: value for key, value in self.overrides.items() if key not in MEMORY and value != AUTO}
