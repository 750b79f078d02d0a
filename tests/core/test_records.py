import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from sails_eval.core.records import Completion, Verdict, read_completions, read_verdicts

COMPLETIONS = [
    Completion("a", "Wie geht\u2028es?", 'Say "hi"\n\n\r\nthen stop.', "greeting", 1.0),
    Completion("b", "", "", ""),
]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_completions_and_verdicts_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "deep" / "c.jsonl", COMPLETIONS)
    assert read_completions(tmp_path / "deep" / "c.jsonl") == COMPLETIONS
    verdicts = [
        Verdict("a", "refusal", 1),
        Verdict("b", unscored="no reply: timeout", raw="é"),
        Verdict("c", "broken", 2),
    ]
    write_jsonl(tmp_path / "v.jsonl", verdicts)
    assert read_verdicts(tmp_path / "v.jsonl") == verdicts


def test_mappings_are_written_like_records(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"a": 1, "b": [None, "é"]}, {}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == '{"a": 1, "b": [null, "é"]}\n{}\n'
    assert list(read_jsonl(tmp_path / "a.jsonl")) == rows


def test_private_files_are_for_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_text(path, "public")
    write_jsonl(path, COMPLETIONS, private=True)  # over the public one
    assert mode(path) == 0o600


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path) -> None:
    def rows() -> Iterator[Any]:
        yield COMPLETIONS[0]
        raise KeyboardInterrupt

    path = tmp_path / "a.jsonl"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, rows())
    assert path.read_text() == "old"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def killed(self: Path, target: Path) -> Path:
        assert self.read_text() == "new" and target == path and path.read_text() == "old"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        write_text(path, "new")
    assert path.read_text() == "old"
    write_text(path, "new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "new"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{broken", "not valid JSON"),
        ("[1]", "expected a JSON object, found list"),
        ("7", "expected a JSON object, found int"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"a": 1}}\n\n{line}\n')
    rows = read_jsonl(path)
    assert next(rows) == {"a": 1}  # blank lines count, and are passed over
    with pytest.raises(UserError, match=f"^{path}:3: {complaint}"):
        next(rows)


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("lora", ["loora", "full"], "unknown thing 'lora'; did you mean loora?"),
        ("zzz", ["b", "a"], "unknown thing 'zzz'; known: a, b"),
        ("zzz", [], "unknown thing 'zzz'; known: none"),
        ("abcd", ["abcx", "abcy"], "unknown thing 'abcd'; did you mean abcy or abcx?"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones_or_all(name: str, known: list[str], message: str) -> None:
    assert str(unknown("thing", name, known)) == message


def test_a_json_file_keeps_its_object(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None], "a": "é"}, sort_keys=True)
    assert (tmp_path / "a.json").read_text() == '{\n "a": "\\u00e9",\n "b": [\n  1,\n  null\n ]\n}\n'
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": [1, None]}


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", r"a\.json: not valid JSON"), (b"\xff{", r"a\.json: not valid JSON"), (b"[]", r"a\.json: expected a JSON")],
)
def test_what_is_no_json_object_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"b\.json: cannot be read \(No such file or directory\); make one"):
        read_json(tmp_path / "b.json", fix="; make one")
