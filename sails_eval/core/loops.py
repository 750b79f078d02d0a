"""Answers that only repeat themselves: when generation ends them. Every engine that ends loops has this definition."""

from collections.abc import Sequence
from typing import Any

PERIODS = (12, 64)
"""The lengths, in tokens, of what may repeat itself. What is shorter repeats itself as a multiple, too."""

TIMES = 5
"""How often it stands at the answer's end, one directly behind the other: 60 tokens at least."""

DEFINITION: dict[str, Any] = {"periods": list(PERIODS), "times": TIMES}
"""As identities have it."""


def ends_in_loop(tokens: Sequence[int]) -> bool:
    """Whether an answer ends with `TIMES` copies of the same tokens, whose number is one of `PERIODS`."""
    shortest, longest = PERIODS
    for period in range(shortest, min(longest, len(tokens) // TIMES) + 1):
        tail = tokens[len(tokens) - TIMES * period :]
        if tail[period:] == tail[:-period]:
            return True
    return False
