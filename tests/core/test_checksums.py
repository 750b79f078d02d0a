"""Hashes beside files: what is damaged is seen, and a kill or a power cut leaves nothing that looks damaged."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sails_eval.core import checksums
from sails_eval.core.checksums import check, fault, listing, note, noted, write_checked
from sails_eval.core.errors import UserError
from sails_eval.core.files import remove, write_bytes
from sails_eval.core.records import Completion, Verdict, read_completions, read_verdicts

TEXT = "one\ntwo\nthree\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "verdicts.jsonl"
    write_checked(path, TEXT, private=True)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint"
    for name in ("config.json", "deep/weights.bin"):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    note(path)
    return path


def test_the_hash_is_one_that_sha256sum_checks(file: Path, folder: Path) -> None:
    name = f"{hashlib.sha256(TEXT.encode()).hexdigest()}  verdicts.jsonl\n"
    assert listing(file).read_text() == f"# 14 bytes, 3 lines\n{name}"
    assert (folder / ".sha256").read_text().splitlines()[1].endswith("  config.json")
    assert file.stat().st_mode & 0o777 == listing(file).stat().st_mode & 0o777 == 0o600
    assert list(noted(file.parents[1])) == [folder, file]
    assert fault(file) is None and fault(folder) is None and fault(file.parent) is None


@pytest.mark.parametrize(
    ("damaged", "told"),
    [
        ("one\ntwo\n", "now 8 bytes, 2 lines, written were 14 bytes, 3 lines"),
        ("", "now 0 bytes, 0 lines"),
        ("one\ntwo\nthrea\n", "now 14 bytes, 3 lines"),
    ],
)
def test_a_file_that_is_not_as_it_was_written_is_refused_with_its_name(file: Path, damaged: str, told: str) -> None:
    file.write_text(damaged)
    with pytest.raises(UserError, match=rf"verdicts\.jsonl: changed or damaged .*{told}.*; restore it, or delete it"):
        check(file)
    write_checked(file, TEXT)
    check(file)


@pytest.mark.parametrize("said", ["", "# 14 bytes, 3 lines\n", "\0" * 90])
def test_a_damaged_hash_is_as_good_as_a_damaged_file(file: Path, said: str) -> None:
    listing(file).write_text(said)
    assert fault(file)
    listing(file).unlink()
    assert fault(file) is None  # as of older versions


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "deep/weights.bin").write_text("deep/weights.bon"), "deep/weights.bin was changed"),
        (lambda folder: (folder / "deep/more.bin").touch(), "deep/more.bin was added"),
        (lambda folder: (folder / ".sha256").write_text(""), "was added"),
        (lambda folder: (folder / ".DS_Store").touch(), None),
    ],
)
def test_of_a_folder_every_file_is_checked(folder: Path, damage: Callable[[Path], object], told: str | None) -> None:
    damage(folder)
    found = fault(folder)
    assert (found is None) == (told is None) and (told is None or told in str(found))


def test_whatever_a_kill_leaves_is_a_known_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path, content: bytes, *, private: bool = False) -> None:
        raise KeyboardInterrupt

    for content in ("another\n", "and another\n"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(checksums, "write_bytes", killed)
            write_checked(file, content)
        assert fault(file) is None and file.read_text() == TEXT
    write_checked(file, "another\n")
    assert fault(file) is None and file.read_text() == "another\n"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def fsync(handle: int) -> None:
        named = (tmp_path / "a").exists()
        seen.append(f"{'folder' if os.fstat(handle).st_mode & 0o40000 else 'file'}, {'named' if named else 'unnamed'}")

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(tmp_path / "a", b"a")
    assert seen == ["file, unnamed", "folder, named"]


def test_neither_writing_nor_deleting_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("years of work")
    (tmp_path / f".a.{os.getpid()}.partial").symlink_to("mine")
    (tmp_path / "a").symlink_to("mine")
    write_bytes(tmp_path / "a", b"a")
    (tmp_path / "mine").read_text()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis").touch()
    (tmp_path / "link").symlink_to("folder")
    for name in ("a", "link", "nothing"):
        remove(tmp_path / name)
    assert (tmp_path / "mine").read_text() == "years of work" and (tmp_path / "folder/thesis").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"mine", "folder"}


def test_what_is_no_completion_or_verdict_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "1", "prompt": "p", "response": "r", "category": "c"}\n{"id": "2", "prompt": "p"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: key 'response': Field required; restore it"):
        read_completions(path)
    path.write_text('{"id": "1", "label": "refused"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:1: key 'label': Input should be 'refusal', "):
        read_verdicts(path)
    write_checked(path, '{"id": "1", "label": "refusal"}\n')
    assert read_verdicts(path) == [Verdict("1", "refusal")]
    path.write_text("")
    for read in (read_verdicts, read_completions):
        with pytest.raises(UserError, match="changed or damaged"):
            read(path)
    write_checked(path, '{"id": "1", "prompt": "p", "response": "r", "category": "c", "value": 1}\n')
    assert read_completions(path) == [Completion("1", "p", "r", "c", 1.0)]
