import csv
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sails_eval.core.errors import UserError
from sails_eval.data.dialogues import Example, Message
from sails_eval.data.reading import read_contrast, read_examples, read_requests

ASK = (Message("user", "How do I bake bread?"),)
YES, NO = "Mix, wait, bake.", "I would rather not."


def jsonl(folder: Path, *rows: Any, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def hh(*turns: str) -> str:
    """Raw HH text; a turn is written "H text" or "A text"."""
    return "".join(f"\n\n{'Human' if turn[0] == 'H' else 'Assistant'}:{turn[1:]}" for turn in turns)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASK[0].content, "response": YES},
        {"prompt": ASK[0].content, "completion": YES},
        {"goal": ASK[0].content, "target": YES},
        {"instruction": ASK[0].content, "input": "", "output": YES},
        {
            "prompt": [{"role": "user", "content": ASK[0].content}],
            "completion": [{"role": "assistant", "content": YES}],
        },
        {"messages": [{"role": "user", "content": ASK[0].content}, {"role": "assistant", "content": YES}]},
    ],
)
def test_every_shape_of_a_request_and_its_response(tmp_path: Path, row: dict[str, Any]) -> None:
    file = read_examples(jsonl(tmp_path, row))
    assert file.examples == (Example(ASK, YES),)
    assert file.odd == ()


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASK[0].content, "chosen": YES, "rejected": NO},
        {"chosen": hh(f"H {ASK[0].content}", f"A {YES}"), "rejected": hh(f"H {ASK[0].content}", f"A {NO}")},
        {"prompt": hh(f"H {ASK[0].content}", "A"), "chosen": YES, "rejected": NO},
        {
            "prompt": ASK[0].content,
            "chosen": [{"role": "user", "content": ASK[0].content}, {"role": "assistant", "content": YES}],
            "rejected": [{"role": "assistant", "content": NO}],
        },
    ],
)
def test_every_shape_of_a_preference(tmp_path: Path, row: dict[str, Any]) -> None:
    path = jsonl(tmp_path, row)
    assert read_contrast(path).examples == read_examples(path).examples == (Example(ASK, YES, NO),)
    assert read_contrast(path).odd == ()


def test_alpaca_input_is_part_of_the_request(tmp_path: Path) -> None:
    path = jsonl(tmp_path, {"instruction": "Translate.", "input": "Brot", "output": "bread"})
    assert read_examples(path).examples[0].messages == (Message("user", "Translate.\n\nBrot"),)


def test_the_last_assistant_turn_is_the_response_and_all_before_it_the_context(tmp_path: Path) -> None:
    turns = [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Bread?"),
        ("assistant", YES),
    ]
    messages = [{"role": role, "content": content} for role, content in [*turns, ("user", "Thanks")]]
    file = read_examples(jsonl(tmp_path, {"messages": messages}))
    assert file.examples == (Example(tuple(Message(*turn) for turn in turns[:4]), YES),)  # type: ignore[arg-type]
    assert (
        len(file.odd) == 1 and "Thanks" not in file.odd[0] and ":1: turns after the last assistant turn" in file.odd[0]
    )


@pytest.mark.parametrize("name", ["d.jsonl", "d.jsonl.gz", "d.json", "data.json", "d.csv", "d.csv.gz", "d.parquet"])
def test_every_kind_of_file_says_the_same(tmp_path: Path, name: str) -> None:
    # Commas, quotes, line breaks, a separator that JSON lets through, and what looks like a missing value.
    rows = [
        {"prompt": 'Say "a, b"\nand c\u2028d', "response": "a, b", "group": "x"},
        {"prompt": "Which country?", "response": "NA", "group": ""},
    ]
    plain = tmp_path / name.removesuffix(".gz")
    if plain.suffix == ".jsonl":
        jsonl(tmp_path, *rows, name=plain.name)
    elif plain.suffix == ".json":
        plain.write_text(json.dumps({"data": rows} if plain.stem == "data" else rows))
    elif plain.suffix == ".csv":
        with plain.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pd.DataFrame(rows).to_parquet(plain)
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    read = read_examples(tmp_path / name)
    expected = [(row["prompt"], row["response"], row["group"]) for row in rows]
    assert [(e.messages[0].content, e.response, e.group) for e in read.examples] == expected
    assert read.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_parquet_holds_lists_of_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": ASK[0].content}, {"role": "assistant", "content": YES}]
    pd.DataFrame({"messages": [messages]}).to_parquet(tmp_path / "d.parquet")
    assert read_examples(tmp_path / "d.parquet").examples == (Example(ASK, YES),)


def test_hh_dialogues_lose_no_turn(tmp_path: Path) -> None:
    common = ["H one", "A two", "A three", "H four"]
    path = jsonl(tmp_path, {"chosen": hh(*common, "A five", "A six"), "rejected": hh(*common, "A seven: no\n\neight")})
    file = read_contrast(path)
    context = (Message("user", "one"), Message("assistant", "two\n\nthree"), Message("user", "four"))
    assert file.examples == (Example(context, "five\n\nsix", "seven: no\n\neight"),)
    assert [line.split(": ")[1] for line in file.odd] == ["chosen", "rejected"]
    assert all("merged" in line and line.startswith(f"{path}:1:") for line in file.odd)


def test_what_makes_no_pair_is_listed_and_left_out(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {"chosen": hh("H a", "A b"), "rejected": hh("H a", "A c")},
        {"chosen": hh("H a", "A b"), "rejected": hh("H other", "A c")},
        {"chosen": hh("H a", "A b"), "rejected": hh("H a", "A b ")},
        {"chosen": hh("H a", "A b"), "rejected": hh("H a", "A ")},
        {"chosen": hh("H a", "A x", "A "), "rejected": hh("H a", "A c")},
        {"chosen": hh("A opens", "H a", "A b"), "rejected": hh("H a", "A c")},
        {"chosen": hh("H a"), "rejected": hh("H a", "A c")},
    )
    file = read_contrast(path)
    assert [example.rejected for example in file.examples] == ["c"]
    assert [line.split(":")[1] for line in file.odd] == ["2", "3", "4", "5", "6", "7"]
    for line, reason in zip(
        file.odd,
        ["different", "identical", "empty", "empty", "request is missing", "not an answer"],
        strict=True,
    ):
        assert reason in line
    trained = read_examples(path).examples  # the chosen answers of 2 to 4 are still good to learn from
    assert [example.rejected for example in trained] == ["c", None, None, None]


def test_the_id_depends_on_the_texts_only(tmp_path: Path) -> None:
    one, two, three = (
        read_examples(jsonl(tmp_path, row)).examples[0]
        for row in (
            {"prompt": "a", "response": "b", "group": "x"},
            {"goal": "a", "target": "b", "other": 1},
            {"prompt": "a", "response": "c"},
        )
    )
    assert one.id == two.id != three.id
    assert Example(ASK, YES).id != Example(ASK, YES, NO).id
    assert len(one.id) == 16


@pytest.mark.parametrize(
    ("content", "name", "complaint"),
    [
        ('{"prompt": "a", "response": "b"}\n{"prompt": \n', "d.jsonl", "d.jsonl:2: not valid JSON"),
        (
            '{"prompt": "a", "response": "b"}\n[1]\n',
            "d.jsonl",
            "d.jsonl:2: expected a JSON object, found list",
        ),
        (
            '{"prompt": "a", "reply": "b"}\n',
            "d.jsonl",
            "d.jsonl:1: no response; .*completion.* found prompt, reply",
        ),
        ('{"text": "a", "response": "b"}\n', "d.jsonl", "d.jsonl:1: no request; .*found text, response"),
        (
            '{"chosen": "a", "rejected": "b"}\n',
            "d.jsonl",
            "d.jsonl:1: field 'chosen': response without a request",
        ),
        (
            '{"prompt": "a", "chosen": "b"}\n',
            "d.jsonl",
            "field 'rejected': expected text or a list .* found nothing",
        ),
        (
            '{"prompt": 3, "response": "b"}\n',
            "d.jsonl",
            "field 'prompt': expected text or a list .* found int",
        ),
        (
            '{"messages": [{"role": "bot", "content": "a"}]}\n',
            "d.jsonl",
            "'messages': message 1 needs a 'role', one of",
        ),
        (
            '{"messages": [{"role": "user"}]}\n',
            "d.jsonl",
            "'messages': message 1 needs text as its 'content'",
        ),
        ('{"rows": []}', "d.json", "expected a list"),
        ('[\n{"prompt": "a"},,]', "d.json", "not valid JSON .*line 2"),
        ("[3]", "d.json", "row 1: expected a JSON object, found int"),
        ("prompt,response\na,b\nc,d,e\n", "d.csv", "row 2: number of fields differs"),
        ("prompt,response\na,b\nc\n", "d.csv", "row 2: number of fields differs"),
        ('prompt,response\na,b\nc,"d\n', "d.csv", "row 2: not valid CSV"),
        ("prompt,response,response\na,b,c\n", "d.csv", "two columns are named 'response'"),
        ("", "d.jsonl", "it has no rows"),
        (
            '{"prompt": "a", "response": " "}\n',
            "d.jsonl",
            "no usable example; .*d.jsonl:1: response was skipped",
        ),
        ("x", "d.parquet", "not a Parquet file"),
        ("x", "d.jsonl.gz", "not a complete gzip file"),
        ("x", "d.doc", "unknown file type; expected .jsonl"),
    ],
)
def test_a_malformed_file_is_named_with_the_place_and_the_fix(
    tmp_path: Path, content: str, name: str, complaint: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=complaint) as caught:
        read_examples(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"prompt": "a", "response": "b"}\n{"prompt": "\xe9"}\n')
    with pytest.raises(UserError, match=r"d.jsonl:2: not valid UTF-8"):
        read_examples(tmp_path / "d.jsonl")


def test_missing_file_and_missing_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(UserError, match="contrast data need the fields chosen and rejected"):
        read_contrast(jsonl(tmp_path, {"prompt": "a", "response": "b"}))
    with pytest.raises(UserError, match=r"no pairs of two responses .*identical"):
        read_contrast(jsonl(tmp_path, {"prompt": "a", "chosen": "b", "rejected": "b"}))


# --- requests ----------------------------------------------------------------------------------------------------


def test_requests_are_told_apart_by_their_flag(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    file = read_requests(
        jsonl(
            tmp_path,
            {"prompt": "How do I bake bread?", "harmful": False},
            {"goal": "How do I pick a lock?", "harmful": True},
            {"prompt": [*turns, {"role": "user", "content": "Bread?"}], "harmful": 0},
            {"prompt": " ", "harmful": True},
        )
    )
    assert file.harmless[0] == ASK and len(file.harmless) == 2 and file.harmless[1][-1] == Message("user", "Bread?")
    assert file.harmful == ((Message("user", "How do I pick a lock?"),),)
    assert len(file.odd) == 1 and ":4: skipped" in file.odd[0]
    assert file.sha256 == hashlib.sha256((tmp_path / "data.jsonl").read_bytes()).hexdigest()


@pytest.mark.parametrize("words", [("true", "false"), ("True", "FALSE"), ("1", "0")])
def test_flags_of_a_csv_are_words(tmp_path: Path, words: tuple[str, str]) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(f"prompt,harmful\na,{words[0]}\nb,{words[1]}\n")
    file = read_requests(path)
    assert [turns[0].content for turns in (*file.harmful, *file.harmless)] == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"prompt": "a"}], r"data.jsonl:1: field 'harmful': expected true or false, but found 'none'"),
        ([{"prompt": "a", "harmful": "maybe"}], "field 'harmful': expected true or false, but found 'maybe'"),
        ([{"harmful": True}], "no request; expected one of the fields prompt"),
        ([{"prompt": "a", "harmful": True}], "no request whose field 'harmful' is false; both kinds are needed"),
    ],
)
def test_faulty_requests_are_an_error(tmp_path: Path, rows: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        read_requests(jsonl(tmp_path, *rows))
