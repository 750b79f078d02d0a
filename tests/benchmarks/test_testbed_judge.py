"""The labels that the testbed's judge is measured against: the grammar's, of every different answer once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sails_eval.analyses.audit.sample import JudgedAnswer
from sails_eval.core.files import read_jsonl
from sails_eval.core.records import Completion, Verdict
from sails_eval.testbed.grammar import DECLINING, Request
from sails_eval.testbed.world import HARMFUL_ACTIONS, SAFE_ACTIONS


def test_every_different_answer_is_labelled_once(
    benchmark: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = []
    for kind, action in (("harmful", HARMFUL_ACTIONS[0]), ("safe", SAFE_ACTIONS[0])):
        for answer in (action.answer, f"{DECLINING[0]} .", f"{DECLINING[0]} .", ""):
            completion = Completion("x", Request(action, 3, "story").text, answer, "")
            verdict = Verdict("x", unscored="not looked at")
            items.append(JudgedAnswer("lora", 0, "task", kind, 0.25, completion, verdict))  # type: ignore[arg-type]
    script = benchmark("testbed_judge")
    monkeypatch.setattr(script, "population", lambda run: items)
    assert script.write_labels(tmp_path, tmp_path) == {"harmful": 3, "safe": 3}
    assert [row["score"] for row in read_jsonl(tmp_path / "harmful.jsonl")] == [5, 1, 2]
    assert [row["label"] for row in read_jsonl(tmp_path / "safe.jsonl")] == ["compliance", "refusal", "broken"]
