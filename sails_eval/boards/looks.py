"""What every method looks like: the same colour and marker in every picture, whatever else is in it."""

import zlib
from collections.abc import Iterable

from sails_eval.core.records import BASE

# Okabe and Ito's colours, which are distinct with every common kind of colour blindness; the markers help in print
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "oD^vPX<>"  # one more than the colours, so that the pairs repeat late
GREY = "#555555"

Look = tuple[str, str]
"""Colour and marker of a method."""

BASE_LOOK: Look = (GREY, "s")

SHIPPED = (
    *("sails", "lora", "full", "random-orthonormal", "activation-svd-r", "dpo", "lora-equal-labels"),
    *("activation-svd", "lda", "difference-in-means", "refusal-direction", "dpo-sails", "dpo-full", "oracle"),
    *("sails-frozen", "sails-narrow", "sails-undertrained", "sails-shuffled", "sails-random", "sails-literal"),
    *("sails-encoder", "sails-output", "sails-one", "sails-signed", "sails-topr", "sails-frozen-2r", "random-frozen"),
    *("random-frozen-2r", "full-linear", "lora-2r", "lora-4r", "lora-half", "lora-plus", "rslora", "dora", "pissa"),
    *("olora", "mica", "eva", "corda", "safe-lora", "adalora", "ia3", "oft", "vera", "prompt"),
)
"""The recipes that ship, those first that are compared most, so that their colours differ. New ones go to the end."""

PLACES = len(COLOURS) * len(MARKERS)
"""How many pairs of colour and marker there are, as the two numbers have no factor in common."""


def look_of(method: str) -> Look:
    """By its place among the recipes that ship; of any other method by its name."""
    if method == BASE:
        return BASE_LOOK
    place = SHIPPED.index(method) if method in SHIPPED else zlib.crc32(method.encode()) % PLACES
    return COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]


def looks_of(methods: Iterable[str]) -> dict[str, Look]:
    return {method: look_of(method) for method in methods}
