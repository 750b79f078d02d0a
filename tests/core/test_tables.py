import math

import pytest

from sails_eval.core.tables import aligned, interval_text, markdown


def test_columns_are_as_wide_as_their_widest_cell_on_their_sides() -> None:
    rows = [["method", "n", "what"], ["lora", "100", "x"], ["full", "1", ""]]
    assert aligned(rows) == ["method  n    what", "lora    100  x", "full    1"]
    assert aligned(rows, "lrl") == ["method    n  what", "lora    100  x", "full      1"]
    assert aligned(rows, "r") == ["method    n  what", "  lora  100     x", "  full    1"]  # for all that follow, too


def test_cells_stay_cells_in_markdown() -> None:
    assert markdown(["a", "b"], [["x|y", r"x\|y"]]) == "| a | b |\n| --- | --- |\n| x\\|y | x\\|y |\n"


@pytest.mark.parametrize(
    ("value", "low", "high", "form", "expected"),
    [
        (0.812, 0.756, 0.861, "z.2f", "0.81 [0.76, 0.86]"),
        (-0.001, math.nan, math.nan, "z.2f", "0.00"),
        (math.nan, math.nan, math.nan, "z.2f", "–"),
        (0.0123, -0.5, 0.5, "+z.3f", "+0.012 [-0.500, +0.500]"),
    ],
)
def test_values_with_their_intervals(value: float, low: float, high: float, form: str, expected: str) -> None:
    assert interval_text(value, low, high, form) == expected
