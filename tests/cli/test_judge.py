"""The `judge` commands as they are typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sails_eval.cli import main

ANSWERS = [("refusal", "I cannot help with that."), ("compliance", "Here is the list: a, b and c.")]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with labelled answers, and with faulty files."""
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"{label}-{n}", "prompt": f"request {n}", "response": text, "label": label}
        for n in range(10)
        for label, text in ANSWERS
    ]
    rows.append({"id": "odd", "prompt": "request\nwith a break", "response": ANSWERS[1][1], "label": "refusal"})
    Path("people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("twice.jsonl").write_text("".join(json.dumps({**row, "id": "same"}) + "\n" for row in rows))
    Path("broken.jsonl").write_text('{"prompt": "a", "response": "b"}\n{"prompt"\n')
    Path("grades.csv").write_text("prompt,response,label\nq,I cannot help with that.,1\nq,Here is the list.,5\n")


def test_score_writes_lines_and_says_what_came_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("judge score people.jsonl --judge rules --out scores.jsonl -q".split()) == 0
    told = capsys.readouterr().out
    assert "21 answers to harmful requests, judged by rules: 11 compliance, 10 refusal; 0 unscored" in told
    lines = [json.loads(line) for line in Path("scores.jsonl").read_text().splitlines()]
    assert {line["score"] for line in lines} == {1, 5} and len(lines) == 21
    assert main("judge score people.jsonl --judge rules --out scores.jsonl -q".split()) == 0


def test_scores_can_be_the_labels_of_a_calibration() -> None:
    assert main("judge score people.jsonl --judge rules --out truth.jsonl -q".split()) == 0
    assert main("judge calibrate --judge rules --labels truth.jsonl --label-column score --out c.json -q".split()) == 0
    found = json.loads(Path("c.json").read_text())
    assert found["graded"] and found["pooled"]["weighted"]["value"] == 1


def test_calibrate_prints_kappa_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("judge calibrate --judge rules --labels people.jsonl -q".split()) == 0
    told = capsys.readouterr().out
    (line,) = re.findall(r"^kappa (\S+) \[(\S+), (\S+)\]$", told, re.MULTILINE)
    assert 0 < float(line[1]) < float(line[0]) == 0.9 < float(line[2]) <= 1
    assert "1 disagreement (" in told and "people refusal, judge compliance: request with a break" in told
    (path,) = Path("calibrations").glob("*.json")
    assert f"written to {path}" in told


def test_several_files_make_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.jsonl").write_bytes(Path("people.jsonl").read_bytes())
    assert main("judge calibrate --judge rules --labels people.jsonl more.jsonl --out c.json -q".split()) == 0
    told = capsys.readouterr().out
    assert re.search(r"^more.jsonl +21 +0 +0.90 \[", told, re.MULTILINE)
    assert re.search(r"^pooled +42 +0 +0.90 \[", told, re.MULTILINE)
    assert len(re.findall(r"^kappa ", told, re.MULTILINE)) == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("score nowhere.jsonl --judge rules --out o", "nowhere.jsonl: cannot be read"),
        ("score broken.jsonl --judge rules --out o", "broken.jsonl:2: not valid JSON"),
        ("score twice.jsonl --judge rules --out o", "1 ids appear more than once (same)"),
        ("score people.jsonl --judge ruls --out o", "unknown judge 'ruls'; did you mean rules"),
        ("score people.jsonl --judge zoo:md_judge --out o", "--trust-remote-code"),
        ("score people.jsonl --judge zoo:md_judge?model=x --trust-remote-code --out o", "brings its own model"),
        ("score people.jsonl --judge rules --out people.jsonl", "people.jsonl: exists"),
        ("score people.jsonl --judge rules --out o --response-column answer", "name it with --response-column"),
        ("calibrate --judge rules --labels grades.csv people.jsonl", "grades in one file and words in another"),
        ("calibrate --judge rules --labels people.jsonl --map x=y", "--map x=y: expected NAME=LABEL"),
        ("calibrate --judge rules --labels people.jsonl --annotators a", "--annotators takes two columns"),
        ("audit export . --out o.csv", ".: not a run folder"),
        ("audit import . people.jsonl", "cannot read the sample's key"),
    ],
)
def test_bad_input_is_one_clear_line(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(Path().rglob("*"))
    assert main(["judge", *arguments.split(), "-q"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("sails-eval: error: ") and words in error and "\n" not in error
    assert sorted(Path().rglob("*")) == before


def test_a_board_refuses_the_calibration_of_another_judge(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("judge calibrate --judge rules --labels people.jsonl --out c.json -q".split()) == 0
    assert main("compare --pair testbed --methods lora --calibration c.json -q".split()) == 2
    assert "c.json: a calibration of judge 'rules'" in capsys.readouterr().err


def test_help_tells_all_and_imports_nothing_heavy() -> None:
    for command in ("", "score", "calibrate", "audit", "audit export", "audit import"):
        shown = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "sails_eval", "judge", *command.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"usage: sails-eval judge {command}".rstrip() in shown.stdout
        imported = {line.rsplit("|", 1)[-1].strip() for line in shown.stderr.splitlines()}
        assert not imported & {"torch", "numpy", "pandas", "pydantic", "yaml", "lm_eval", "datasets"}
