import csv
import gzip
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
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


ROW = {"prompt": "a", "response": "b"}


def said(*turns: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a"}, *turns]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "a", "response": None}, "response was skipped: .* empty"),
        ({"prompt": "a", "response": float("nan")}, "response was skipped: .* empty"),
        ({"prompt": None, "response": "b"}, "the user's request is missing"),
        ({"prompt": "a"}, "no response; expected one of the fields"),
        ({"prompt": "a", "chosen": None, "rejected": "c"}, "response|chosen"),
        ({"prompt": None, "chosen": "b", "rejected": "c"}, "response without a request"),
        (said({"role": "assistant", "content": None}), "message 2 needs text"),
        (said({"role": "assistant"}), "message 2 needs text"),
        (said({"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}), "message 2 calls a tool"),
        (said({"role": "tool", "content": "20"}, {"role": "assistant", "content": "b"}), "message 2 .*'tool'"),
        (said({"role": "developer", "content": "x"}, {"role": "assistant", "content": "b"}), "found 'developer'"),
        (said({"role": "assistant", "content": [{"type": "image_url", "image_url": {}}]}), "type image_url"),
        ({"conversations": [{"from": ["human"], "value": "a"}]}, "message 1 needs a 'role'"),
        ({"instruction": "a", "output": "b", "history": ["x"]}, "'history' was not read"),
        ({"chosen": "Q: how?\n\nA: so", "rejected": "Q: how?\n\nA: no"}, "the speakers Q and A are not known"),
    ],
)
def test_a_row_that_cannot_be_learnt_from_leaves_the_others(tmp_path: Path, row: Any, reason: str) -> None:
    path = jsonl(tmp_path, row, ROW)
    file = read_examples(path)
    assert len(file.examples) == 1 and len(file.odd) == 1
    assert re.search(rf"^{re.escape(str(path))}:1: .*{reason}", file.odd[0])
    if "prompt" in row:
        requests = jsonl(tmp_path, row | {"harmful": True}, {"prompt": "x", "harmful": True}, ROW | {"harmful": 0})
        assert len(read_requests(requests).odd) == (row["prompt"] is None)


def test_an_answer_without_a_rejected_one_is_learnt(tmp_path: Path) -> None:
    file = read_examples(
        jsonl(tmp_path, {"prompt": "a", "chosen": "b", "rejected": None}, {"prompt": "a", "chosen": "c"})
    )
    assert [(one.response, one.rejected) for one in file.examples] == [("b", None), ("c", None)]
    assert all("rejected was skipped" in line for line in file.odd) and len(file.odd) == 2


def test_content_in_parts_is_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "How do I "}, {"type": "text", "text": "bake bread?"}]
    path = jsonl(tmp_path, {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": YES}]})
    assert read_examples(path).examples == (Example(ASK, YES),)


def test_alpaca_and_sharegpt_rows_keep_their_system_prompt_and_history(tmp_path: Path) -> None:
    alpaca = {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]}
    talk = {"system": "s", "conversations": [{"from": "human", "value": "a"}, {"from": "chatgpt", "value": "b"}]}
    first, second = read_examples(jsonl(tmp_path, alpaca, talk)).examples
    assert [turn.content for turn in first.messages] == ["s", "a", "b", "c"]
    assert second == Example((Message("system", "s"), Message("user", "a")), "b")


@pytest.mark.parametrize(
    ("said", "messages", "answer"),
    [
        (hh("H one", "A two").replace("\n", "\r\n"), ["one"], "two"),
        ("\n\nUser: one\n\nAssistant: two", ["one"], "two"),
        (hh("H one", "A two\n\nUser: three"), ["one"], "two\n\nUser: three"),
    ],
)
def test_hh_dialogues_in_slightly_other_forms(tmp_path: Path, said: str, messages: list[str], answer: str) -> None:
    (example,) = read_examples(jsonl(tmp_path, {"chosen": said, "rejected": f"{said} No."})).examples
    assert ([turn.content for turn in example.messages], example.response) == (messages, answer)
    plain = read_examples(jsonl(tmp_path, {"prompt": "User: is this a prompt?", "response": "b"}))
    assert plain.examples[0].messages[0].content == "User: is this a prompt?"


def test_half_a_surrogate_pair_is_replaced_and_told(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "a \\ud83d", "response": "b \\ud83d\\ude00"}\n')
    file = read_examples(path)
    assert (file.examples[0].messages[0].content, file.examples[0].response) == ("a \ufffd", "b \U0001f600")
    assert file.odd == (f"{path}:1: U+D83D, half of a surrogate pair, was replaced by U+FFFD",)
    assert file.examples[0].id and file.rows == 1


def test_files_under_another_kind_of_name(tmp_path: Path) -> None:
    for name, content in [
        ("lines.json", b'{"prompt": "a", "response": "b"}\n\n{"prompt": "c", "response": "d"}\n'),
        ("list.jsonl", b'[{"prompt": "a", "response": "b"},\n{"prompt": "c", "response": "d"}]'),
        ("packed.jsonl", gzip.compress(b'{"prompt": "a", "response": "b"}\n{"prompt": "c", "response": "d"}')),
    ]:
        (tmp_path / name).write_bytes(content)
        assert [one.response for one in read_examples(tmp_path / name).examples] == ["b", "d"]
    (tmp_path / "lines.json").write_text('{"prompt": "a", "response": "b"}\n{"prompt": \n')
    with pytest.raises(UserError, match=r"lines\.json:2: not valid JSON"):
        read_examples(tmp_path / "lines.json")


def test_a_gzip_file_that_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sails_eval.data.files.PACKED_BYTES", 1000)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b" " * 100_000))
    with pytest.raises(UserError, match=r"d\.jsonl\.gz: holds more than 100 times its size"):
        read_examples(tmp_path / "d.jsonl.gz")


def test_parquet_columns_that_nobody_reads_may_hold_anything(tmp_path: Path) -> None:
    table = pd.DataFrame([ROW | {"image": b"\xff\xd8", "at": 10**15, "missing": None, "group": None}])
    table["at"] = table["at"].astype("datetime64[s]")
    table.to_parquet(tmp_path / "d.parquet")
    (example,) = read_examples(tmp_path / "d.parquet").examples
    assert (example.messages[0].content, example.response, example.group) == ("a", "b", "")


THREADS = """
import sys
from pathlib import Path
import psutil
import pyarrow.parquet
from sails_eval.data.files import read_rows
before = psutil.Process().num_threads()
read_rows(Path(sys.argv[1]))
sys.exit(psutil.Process().num_threads() - before)
"""


def test_reading_parquet_leaves_no_thread_that_python_would_abort_on(tmp_path: Path) -> None:
    pd.DataFrame([ROW]).to_parquet(tmp_path / "d.parquet")
    assert subprocess.run([sys.executable, "-c", THREADS, str(tmp_path / "d.parquet")]).returncode == 0


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
        ("prompt;response\na;b\n", "d.csv", "d.csv: columns are separated by ';', not by ','"),
        ('"prompt";"response"\n"a";"b, c"\n', "d.csv", "columns are separated by ';'"),
        ("prompt\tresponse\na\tb\n", "d.csv", "separated by .* or name it .tsv"),
        ("[" * 100_000, "d.json", "not valid JSON .nested too deeply"),
        ('{"a": ' * 100_000, "d.jsonl", "d.jsonl:1: not valid JSON .nested too deeply"),
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


def test_messages_in_a_csv_are_read_as_json_and_refused_in_other_notations(tmp_path: Path) -> None:
    def row(notation: Callable[[Any], str]) -> dict[str, str]:
        answers = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
        return {"prompt": "a"} | {name: notation(answer) for name, answer in answers.items()}

    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["prompt", "chosen", "rejected"])
        writer.writeheader()
        writer.writerows([row(json.dumps), row(repr)])
    found = read_examples(path)
    assert found.examples == (Example((Message("user", "a"),), "chosen", "rejected"),)
    (odd,) = found.odd
    assert odd.startswith(f"{path}: row 2: field 'chosen' holds messages in Python's notation")


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_a_pointer_of_git_lfs_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    with pytest.raises(UserError, match=rf"{name}: a pointer of git-lfs"):
        read_examples(tmp_path / name)
