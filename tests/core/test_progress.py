"""What is seen while work goes on: plain lines where stderr is no terminal, and what workers tell."""

import io
import sys
import time
from typing import Any

import pytest

from sails_eval.core import progress
from sails_eval.core.progress import Done, Step, bar, heard, tell


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_where_stderr_is_no_terminal_a_bar_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with bar("answers", 300) as shown:
        for _ in range(300):
            now += 1.0
            shown.update(note="loss 1.0")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"answers: {n}/300, {n} s, loss 1.0" for n in (60, 120, 180, 240, 300)]
    with bar("nothing", 0) as shown, bar("not told", 3, quiet=True) as silent:
        shown.update()
        silent.update(3)
    assert capsys.readouterr().err == ""


def test_bars_of_a_terminal_stand_together_and_lines_above_them(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    with bar("all stages", 100), bar("training", 4) as training, bar("answers", 4):
        training.update(note="loss 1.250, 8,000 tokens/s, step 3/60 of lora 0.001 seed 0")
        progress.say("a line")
        progress._display[0].refresh()
    text = terminal.getvalue()
    assert all(told in text for told in ("all stages", "training", "answers", "1/4", "loss 1.250", "a line"))
    assert "training: 1/4, " in text and not progress._display  # the line that is left of it


def test_a_terminal_without_colours_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    with bar("training", 2) as training:
        training.update()
        progress._display[0].refresh()
    assert "training" in terminal.getvalue() and "\x1b[38" not in terminal.getvalue()


def test_everybody_who_listens_hears_and_nobody_else() -> None:
    told: list[Any] = []
    step = Step("lora", 1, 60, 2.0, 100.0)
    with heard(told.append), heard(told.append):
        tell(step)
    tell(Done("training", 1, 2.0))
    assert told == [step, step]
