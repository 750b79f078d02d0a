"""How long a comparison will still take, and what is said of it before it starts."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.opening import opening
from sails_eval.core.progress import Bar, Done, Step
from sails_eval.plan.prepare import prepare
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.header import describe_run
from sails_eval.run.outlook import Outlook, TrainingBar, duration, work_left


class Shown(Bar):
    def __init__(self) -> None:
        self.done, self.notes = 0.0, list[str]()

    def update(self, n: float = 1, *, note: str | None = None) -> None:
        self.done += n
        self.notes += [] if note is None else [note]


def test_what_is_left_takes_as_long_as_what_was_done_took() -> None:
    found = Outlook(Counter(training=10, answers=1000, verdicts=500), jobs=2)
    told = [("training", 1, 30.0), ("answers", 100, 50.0), ("verdicts", 250, 25.0)]
    told += [("training", 9, 1.0), ("answers", 2000, 1.0), ("verdicts", 250, 1.0)]
    left = [found.remaining]
    for kind, units, seconds in told:
        found.note(Done(kind, units, seconds))
        left.append(found.remaining)
    assert left[:2] == [None, None]  # nothing was trained, then nothing was answered yet
    assert left[2:4] == [(9 * 30 + 900 * 0.5) / 2, (9 * 30 + 900 * 0.5 + 250 * 0.1) / 2]
    assert left[-1] == 0  # more answers than were counted on leave nothing, not less


def test_training_shows_loss_and_pace() -> None:
    shown = Shown()
    training = TrainingBar(shown)
    training.hear(Step("lora 0.001 seed 0", 3, 60, 1.25, 8000.0))
    training.hear(Done("answers", 5, 1.0))
    training.hear(Done("training", 1, 1.0))
    assert shown.done == 1 and shown.notes == ["loss 1.250, 8,000 tokens/s, step 3/60 of lora 0.001 seed 0"]


@pytest.mark.parametrize(("seconds", "told"), [(5.0, "5 s"), (600.0, "10 min"), (7300.0, "2.0 h")])
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_the_header_says_what_is_compared_and_where_it_goes(asked: dict[str, Any]) -> None:
    plan = prepare(CompareConfig(**asked))
    run = RunFolder(plan.folder)
    lines = describe_run(plan, run, jobs=3)
    told = dict(line.split(maxsplit=1) for line in lines)
    assert told["methods"] == "sails, lora; without training: base"
    assert told["cells"] == "2 methods × 2 rates × 2 seeds = 8"
    assert told["judge"] == "rules" and told["tasks"] == "bad, good" and str(run.path) in lines[-1]
    (sub_run,) = plan.sub_runs
    assert work_left(sub_run, run)["training"] == 8


@pytest.mark.parametrize(
    ("jobs", "gpu", "hint"),
    [(1, False, "; this machine has 4 cores, --jobs 4 uses all if memory suffices"), (4, False, ""), (1, True, "")],
)
def test_the_header_says_where_cores_are_left(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch, jobs: int, gpu: bool, hint: str
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("sails_eval.run.header.has_gpu", lambda: gpu)
    plan = prepare(CompareConfig(**asked))
    told = " ".join(" ".join(describe_run(plan, RunFolder(plan.folder), jobs=jobs)).split())
    assert f"processes {jobs} with one thread each (--jobs){hint} run folder" in told


def test_the_first_line_says_what_this_runs_on_and_how_to_name_another() -> None:
    (line,) = opening(CompareConfig(methods=("lora",)))
    assert line.startswith("lora on testbed") and "--pair NAME" in line and "--model M" in line
    assert opening(CompareConfig(methods=("lora", "full"), pair="gemma-2-2b")) == ["lora, full on gemma-2-2b"]
    assert opening(CompareConfig(methods=("lora",), model="./m")) == ["lora on ./m"]
    assert "smoke test" in opening(CompareConfig(quick=True))[0]
    assert opening(CompareConfig(add=("mine",), against=Path("runs/a"))) == ["extending runs/a by mine"]
