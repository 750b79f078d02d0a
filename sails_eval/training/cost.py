"""What training a cell cost."""

from pydantic import Field

from sails_eval.core.schema import Frozen


class TrainingCost(Frozen):
    """What a cell cost; the first part of its train.json."""

    tokens: int = Field(description="of all sequences read; with the objective dpo both answers to every request")
    steps: int
    examples: int
    unique_examples: int
    flops: int = Field(
        description="counted by torch over the first optimiser step, forward, backward and what its reference takes, "
        "and scaled by padded tokens"
    )
    seconds: float
    peak_memory_bytes: int
    trainable_params: int
    total_params: int
    losses: list[float]
