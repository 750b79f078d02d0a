import json
import math

import pytest

from sails_eval.core.tables import Table, aligned, fitted, interval_text, markdown, wrapped


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


ROWS = [
    ["run", "share", "what", "source"],
    [
        "a-name-of-some-length",
        "0.5",
        "a sentence that takes more room than a narrow screen has",
        "somebody 2023, arXiv",
    ],
    ["b", "12", "short", "nobody"],
]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_table_fits_the_screen(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = fitted(ROWS, "lrl", drop=["source", "share"])
    assert max(map(len, lines)) <= width
    assert all(any(cell in line for line in lines) for cell in ("a-name-of-some-length", "b"))  # names stay whole
    text = " ".join(word for line in lines for word in line.split())
    assert "0.5" in text and "12" in text and not set(text) & {"\x1b"}
    assert ("(columns left out: source; --wide shows all)" in lines) == (width == 60)
    assert ("nobody" in text) == (width > 60)


@pytest.mark.parametrize("width", [30, 44])
def test_nothing_is_lost_where_there_is_too_little_room(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = fitted([row[:3] for row in ROWS], "lrl")
    assert max(map(len, lines)) <= width
    letters = "".join("".join(lines).split())
    assert sorted(letters) == sorted("".join("".join("".join(row[:3]) for row in ROWS).split()))


def test_what_is_read_by_programs_has_a_line_for_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)  # stdout is no terminal under pytest
    assert fitted(ROWS, "lrl", drop=["source"]) == aligned(ROWS, "lrl")


def test_markup_in_a_cell_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    (_, *lines) = fitted([["name", "what"], ["x", "[red]not a colour[/red] but text, and a long one at that"]])
    assert "[red]not" in lines[0]


def test_a_table_as_data() -> None:
    table = Table([["a", "b"], ["1", "–"]], [{"a": 1, "b": math.nan}, {"a": None, "b": ("x", "y")}])
    assert json.loads(table.json()) == [{"a": 1, "b": None}, {"a": None, "b": ["x", "y"]}]
    assert table.csv() == 'a,b\n1,\n,"x,y"'
    assert Table([["a"]], []).json() == "[]"


def test_lines_are_wrapped_under_their_beginning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert wrapped("  tasks  one two three four", indent=9) == "  tasks  one two\n         three four"
