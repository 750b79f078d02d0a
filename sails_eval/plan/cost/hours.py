"""How long a comparison takes on a GPU: an estimate from FLOPs, not a measurement."""

PEAK = {
    "H200": 989, "H100": 989, "L40S": 362, "A100": 312, "RTX 4090": 165, "L4": 121, "RTX 3090": 71,
}  # fmt: skip
"""TFLOP/s in bfloat16, dense, by a part of the GPU's name, as their makers publish them."""

WITHOUT = "RTX 4090"
"""The GPU that is reckoned with where there is none, or one that is not listed."""

UTILISATION = 0.3
"""The share of that which training is assumed to use; short examples use less."""

DECODING = 30
"""Tokens a second that transformers is assumed to add to every answer of a batch."""


def in_words(device: str, *, flops: float, answers: int, tokens: int, at_a_time: int) -> str:
    """The hours of training with so many FLOPs, and of at most so many answers of `tokens` tokens each."""
    gpu = next((name for name in PEAK if name in device), WITHOUT)
    training = flops / (UTILISATION * PEAK[gpu] * 1e12) / 3600
    answering = answers / at_a_time * tokens / DECODING / 3600
    told = f"at most {answering:.1f}" if answers else "an unknown number"
    return (
        f"about {training:.1f} for training and {told} for answering; estimated for one {gpu} at "
        f"{UTILISATION:.0%} of its {PEAK[gpu]} TFLOP/s in bfloat16, and batches of {at_a_time} answers of {tokens} "
        f"tokens at {DECODING} tokens/s each"
    )
