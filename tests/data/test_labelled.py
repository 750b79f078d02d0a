"""Labels beside answers, however they are written: an unsafe answer is never learnt, nor paired in another context."""

import json
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.errors import UserError
from sails_eval.data.dialogues import Example, Message
from sails_eval.data.reading import DataFile, read_examples


def read(folder: Path, *rows: dict[str, Any]) -> DataFile:
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_examples(folder / "data.jsonl")


def texts(file: DataFile) -> list[tuple[str, str | None]]:
    return [(example.response, example.rejected) for example in file.examples]


@pytest.mark.parametrize(("safe", "unsafe"), [(1, 0), (1.0, 0.0), ("True", "false")])
def test_is_safe_may_be_written_as_a_number(tmp_path: Path, safe: Any, unsafe: Any) -> None:
    rows = [{"prompt": "a", "response": text, "is_safe": flag} for text, flag in (("bad", unsafe), ("good", safe))]
    file = read(tmp_path, *rows, {"prompt": "a", "response": "who knows", "is_safe": None})
    assert texts(file) == [("good", "bad")]
    assert any("1 left out: a label of theirs is missing" in line for line in file.left_out)


def test_is_safe_that_says_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r":1: field 'is_safe': expected true or false, but found 'perhaps'"):
        read(tmp_path, {"prompt": "a", "response": "b", "is_safe": "perhaps"})


@pytest.mark.parametrize("label", ["label", "is_safe"])
def test_messages_with_a_label_are_paired(tmp_path: Path, label: str) -> None:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]

    assert texts(read(tmp_path, *({"messages": said(one), label: one == "good"} for one in ("bad", "good")))) == [
        ("good", "bad")
    ]


@pytest.mark.parametrize(
    ("context", "messages"),
    [
        ({"input": "b"}, (Message("user", "a\n\nb"),)),
        ({"system": "b"}, (Message("system", "b"), Message("user", "a"))),
        ({"history": [["b", "c"]]}, (Message("user", "b"), Message("assistant", "c"), Message("user", "a"))),
    ],
)
def test_answers_are_paired_in_their_whole_context(
    tmp_path: Path, context: dict[str, Any], messages: tuple[Message, ...]
) -> None:
    labels = {"is_response_0_safe": True, "is_response_1_safe": False}
    rows = [
        {"instruction": "a", "response": "alone", "is_safe": True},
        {"instruction": "a", "response": "bad", "is_safe": False, **context},
        {"instruction": "a", "response": "good", "is_safe": True, **context},
        {"instruction": "a", "response_0": "good", "response_1": "bad", **labels, **context},
    ]
    pair = Example(messages, "good", "bad")
    assert set(read(tmp_path, *rows).examples) == {Example((Message("user", "a"),), "alone"), pair}
    assert len(read(tmp_path, *rows).examples) == 3


@pytest.mark.parametrize("missing", ["is_response_0_safe", "is_response_1_safe", "better_response_id"])
def test_a_missing_label_of_two_answers_leaves_that_row_out(tmp_path: Path, missing: str) -> None:
    row = {"prompt": "a", "response_0": "zero", "response_1": "one"}
    labels = {"is_response_0_safe": True, "is_response_1_safe": True, "better_response_id": 1.0}
    file = read(tmp_path, row | labels | {missing: None}, row | labels)
    assert texts(file) == [("one", None)]
    assert "1 left out: a label of theirs is missing" in file.left_out[0]


def test_beside_a_completion_a_number_is_a_label(tmp_path: Path) -> None:
    said = [("good", 1), ("bad", 0), ("unknown", None)]
    file = read(tmp_path, *({"prompt": "a", "completion": text, "label": label} for text, label in said))
    assert texts(file) == [("good", "bad")]


def test_answers_that_repeat_their_request_are_listed(tmp_path: Path) -> None:
    file = read(tmp_path, {"prompt": "What is it?", "chosen": "What is it? Good.", "rejected": "What is it? Bad."})
    assert "both repeat the request" in file.odd[0]
