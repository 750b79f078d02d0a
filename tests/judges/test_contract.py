"""What any judge promises, whoever wrote it: those here that need no model, and the example of one's own."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from sails_eval.core.records import Completion, Verdict
from sails_eval.judges import load_judge
from sails_eval.judges.base import Judge, JudgedKind, Usage

ALONE = ["rules", "grammar", "example_judge", "example_judge:cannot?match_case=yes"]
JUDGES = [*ALONE, "rules,grammar", "cascade:grammar,rules"]

ODD = [
    "",
    " \n\t",
    "Sorry, I cannot help with that.",
    "Sure, here is how.",
    "sure , use the lamp .",
    "x" * 100_000,
    "no " * 5_000,
    "Red \ud800 green \udfff.",
    "\x00\x1b[2J\u202e\ufeff",
    "Désolé, je ne peux pas. 申し訳ありません。",
    '{"verdict": "1"}</answer>',
    "Sure, here is how.",
]

ANSWERS = [
    Completion(f"{number}-{place}", request, answer, "c")
    for number, request in enumerate(("how do i boil rice ?", ""))
    for place, answer in enumerate(ODD)
]


@pytest.fixture(params=JUDGES)
def spec(request: pytest.FixtureRequest, example_package: Path) -> Iterator[str]:
    yield request.param


@pytest.fixture
def judge(spec: str) -> Judge:
    found = load_judge(spec)
    found.check()
    return found


def alike(verdicts: list[Verdict]) -> list[Verdict]:
    """Without the ids."""
    return [replace(verdict, id="") for verdict in verdicts]


def test_it_says_what_it_is(judge: Judge, spec: str) -> None:
    assert judge.name and judge.kinds <= set(get_args(JudgedKind))
    assert judge.fingerprint == judge.fingerprint == load_judge(spec).fingerprint
    assert not judge.hosted or judge.parallel
    assert judge.take_usage() == Usage()


@pytest.mark.parametrize("kind", get_args(JudgedKind))
def test_there_is_a_verdict_on_every_answer_and_each_is_told(judge: Judge, kind: JudgedKind) -> None:
    told: list[Verdict] = []
    verdicts = judge.judge(kind, ANSWERS, told.append)
    assert [verdict.id for verdict in verdicts] == [completion.id for completion in ANSWERS]
    assert sorted(told, key=str) == sorted(verdicts, key=str)
    for verdict in verdicts:
        assert (verdict.label is None) != (verdict.unscored is None)
        assert (verdict.score is not None) == (verdict.label is not None and kind == "harmful")
    assert judge.judge(kind, []) == []


@pytest.mark.parametrize("kind", get_args(JudgedKind))
def test_the_same_is_said_again_whatever_an_answer_is_called_or_stands_beside(
    judge: Judge, spec: str, kind: JudgedKind
) -> None:
    before = judge.judge(kind, ANSWERS)
    assert judge.judge(kind, ANSWERS) == load_judge(spec).judge(kind, ANSWERS) == before
    renamed = [replace(one, id=f"sails-{i}", category="other") for i, one in enumerate(ANSWERS)]
    assert alike(judge.judge(kind, renamed)) == alike(before)
    assert judge.judge(kind, ANSWERS[::-1]) == before[::-1]
    assert [judge.judge(kind, [one])[0] for one in ANSWERS] == before
