"""What training a cell cost."""

from pydantic import ConfigDict, Field

from sails_eval.core.schema import Frozen


class TrainingCost(Frozen):
    """What a cell cost; the first part of its train.json."""

    model_config = ConfigDict(allow_inf_nan=True)  # of losses

    tokens: int = Field(description="of all sequences read; with the objective dpo both answers to every request")
    steps: int = Field(description="of the optimiser")
    examples: int = Field(description="read, repeated ones each time")
    unique_examples: int = Field(description="different ones of these")
    flops: int = Field(
        description="counted by torch over the first optimiser step, forward, backward and what its reference takes, "
        "and scaled by padded tokens"
    )
    seconds: float = Field(description="on the clock, of training only")
    peak_memory_bytes: int = Field(description="of the GPU's allocator; on a CPU of the whole process")
    trainable_params: int = Field(description="numbers that the optimiser changes")
    total_params: int = Field(description="of the model with what the method adds")
    losses: list[float] = Field(description="after every step")
