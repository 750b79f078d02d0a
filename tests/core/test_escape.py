"""Text that is not ours does nothing but be read, wherever it goes."""

import csv
import io
import json
import logging
from pathlib import Path

import pandas as pd
import pytest

from sails_eval.boards.curves import Point
from sails_eval.cli import main
from sails_eval.core.escape import PlainFormatter, Visible, escape, neutralise, one_line, restore, visible
from sails_eval.core.tables import Table, fitted
from sails_eval.run.report.curves import to_markdown
from sails_eval.run.report.ledger import write_ledger

HOSTILE = "\x1b[2Jred\x07\x9b31m \u202eoff\u2066 \ud800 \u2028 <script>x</script> | `a` [b](c)"
STEERS = "\x1b\x07\x9b\u202e\u2066\ud800\u2028\U000e0041"
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "\uff201"]


def test_what_steers_a_terminal_is_written_out() -> None:
    assert visible("one\n\ttwo é 你 👍") == "one\n\ttwo é 你 👍"
    assert visible("\x1b[2J\u202e") == "\\u001b[2J\\u202e"
    assert not set(STEERS) & set(visible(HOSTILE))
    assert json.loads(f'"{visible("a" + chr(0x7F) + chr(0xE0041))}"') == "a\x7f\U000e0041"  # what JSON says of it
    assert one_line(f"a\nb\t{STEERS}c") == "a b" + " " * 9 + "c"


def test_markdown_holds_no_markup_and_csv_no_formula() -> None:
    assert escape("<b>|`x`[y]\n# z") == r"\<b\>\|\`x\`\[y\] # z"
    for text in FORMULAS:
        assert neutralise(text)[0] == "'" and restore(neutralise(text)) == text
    assert neutralise("a=b") == "a=b"


def test_a_stream_and_the_log_show_it() -> None:
    stream = io.StringIO()
    print(HOSTILE, file=Visible(stream))
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s", (HOSTILE,), None)
    for shown in (stream.getvalue(), PlainFormatter("%(message)s").format(record)):
        assert not set(STEERS) & set(shown) and "\\u001b[2Jred" in shown


def test_tables_keep_their_rows_and_their_csv_runs_nothing(tmp_path: Path) -> None:
    assert fitted([["a"], ["x\ny"], [HOSTILE]])[1] == "x y" and len(fitted([["a\nb"], ["c\rd"]])) == 2
    (row,) = csv.DictReader(io.StringIO(Table([], [{"name": "=1+1", "n": -1.5, "path": Path("@x")}]).csv()))
    assert row == {"name": "'=1+1", "n": "-1.5", "path": "'@x"}
    write_ledger(
        tmp_path / "budget.csv", pd.DataFrame({"method": ["=1+1", "lora"], "tokens": [3, 4], "x": [-0.5, 1.0]})
    )
    assert (tmp_path / "budget.csv").read_text() == "method,tokens,x\n'=1+1,3,-0.5\nlora,4,1.0\n"


def test_the_page_of_curves_has_names_as_text() -> None:
    name = "<img src=x>|b"
    points = [
        Point(name, "limited", "alignment_score", 0.1, 0.5, note="<i>"),
        Point(name, "best_of", "alignment_score", 1, 0.5),
        Point(name, "examples", "alignment_score", 8, 0.5),
        Point(f"{name} - b", "difference", "alignment_score", 8, 0.5),
    ]
    page = to_markdown(points, title="Curves of <b>")
    assert "<" not in page.replace(r"\<", "") and r"\<img src=x\>\|b" in page


@pytest.mark.parametrize(
    "command",
    [
        "data show rows.jsonl",
        "data show rows.jsonl --odd",
        "judge score rows.jsonl --judge rules --out scored.jsonl",
        "judge calibrate --judge rules --labels rows.jsonl",
        "leaderboard check board.csv",
        "judge score missing\x1b[2J.jsonl --judge rules --out scored.jsonl",
    ],
)
def test_commands_show_texts_of_files_without_being_steered(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = HOSTILE.replace("\ud800", "") if "data" in command else HOSTILE
    labels = ["refusal", "compliance", "compliance"]
    rows = [{"id": f"{i}{text}", "prompt": text, "response": text, "label": label} for i, label in enumerate(labels)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("board.csv").write_text(f"{HOSTILE[:14]},b\n1,2\n")
    main([*command.split(" "), *(["-q"] if "judge" in command else [])])
    told = capsys.readouterr()
    assert told.out + told.err and not set(STEERS) & set(told.out + told.err)
