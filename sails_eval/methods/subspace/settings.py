"""What recipes may set of texts and of bases, checked without torch."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sails_eval.core.schema import Frozen

ContrastKind = Literal["responses", "requests"]
Positions = Literal["response", "prompt_last", "prompt_end", "first4", "all"]

FITTING: dict[ContrastKind, tuple[Positions, ...]] = {
    "responses": ("response", "first4", "all"),
    "requests": ("prompt_last", "prompt_end", "all"),
}
"""Which positions can tell two answers to one request apart (its own tokens alone never do), and two requests."""


class ContrastSettings(Frozen):
    """Which texts are contrasted, and at which of their tokens. Of the template's only `prompt_end` counts."""

    contrast: ContrastKind = Field(
        default="responses",
        description="responses (default; after the paper): aligned against unaligned answers to the same requests; "
        "requests (not specified by the paper): harmless requests, which count as aligned, against harmful ones",
    )
    positions: Positions = Field(
        default="response",
        description="response (default; not specified by the paper): the answer's tokens; first4: its first four; "
        "prompt_last: the last token of the request's content; prompt_end: the last token of all before the answer, "
        "which is the template's (after Arditi et al. 2024); all: contents of request and answer",
    )

    @model_validator(mode="after")
    def _fitting_positions(self) -> Self:
        if self.positions not in (fitting := FITTING[self.contrast]):
            raise ValueError(
                f"key 'positions': '{self.positions}' cannot be used with contrast '{self.contrast}'; "
                f"use {' or '.join(fitting)}"
            )
        return self


class SpanSettings(Frozen):
    """What a basis keeps of the directions that it is made of, by an SVD of them."""

    variance: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the squared length of all directions that the singular vectors hold; what they leave of "
        "the rank is filled (`fill`), what is beyond it is cut; default 1: all of the rank from what was found; in the "
        "paper 0.8",
    )
    centred: bool = Field(
        default=False,
        description="subtract the mean direction before the SVD: the basis then spans how they differ, and not what "
        "they share; default false, not specified by the paper",
    )


class Placement(Frozen):
    """How a basis is put into LoRA. The paper does not specify any of these settings."""

    fill: Literal["random", "none"] = Field(
        default="random",
        description="the rest of the rank: random (default; not specified by the paper): a random orthonormal "
        "complement; none: PEFT's own start, or zeros in a frozen matrix, so that ΔW stays within the basis",
    )
    uncovered: Literal["lora", "nearest_below", "skip"] = Field(
        default="lora",
        description="modules at a layer without a basis: lora (default; not specified by the paper): PEFT's own start; "
        "nearest_below: the basis of the nearest layer below that has one, else PEFT's own start; skip: not trained",
    )
    side: Literal["both", "read", "write"] = Field(
        default="both",
        description="modules that take a basis: both (default; not specified by the paper), only those that read the "
        "residual stream, or only those that write to it; the others are trained from PEFT's own start",
    )
    scale: Literal["matched", "unit"] = Field(
        default="matched",
        description="length of the basis vectors, rows of lora_A or columns of lora_B: matched (default; not specified "
        "by the paper): 1/√3, about that of PEFT's rows of lora_A, so that the matrix that is not zero has the norm of "
        "PEFT's own start, √(r/3); or unit",
    )
    basis: Literal["trainable", "frozen"] = Field(
        default="trainable",
        description="trainable (default; not specified by the paper), or frozen: the matrix that holds the basis is "
        "not trained, its fill included",
    )
    gains: Literal["ignored", "divided"] = Field(
        default="ignored",
        description="gains of the RMS norms before readers and after writers (see: sails-eval docs pairs): ignored "
        "(default; not specified by the paper), or divided: U/g, made orthonormal again, so that the module reads or "
        "writes span(U)",
    )

    @field_validator("scale", mode="before")
    @classmethod
    def _renamed(cls, value: Any) -> Any:
        if value == "lora":
            raise ValueError("'lora' is called 'matched' since 0.3.0, and is the default")
        return value
