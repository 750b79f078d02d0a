"""Which commit a run says that it was made by."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sails_eval.core import version
from sails_eval.core.version import git_commit


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that the package lies in, which is no checkout yet."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package/file.py").write_text("1")
    monkeypatch.setattr(version, "PACKAGE", tmp_path / "package")
    git_commit.cache_clear()
    yield tmp_path
    git_commit.cache_clear()


def test_there_is_no_commit_outside_a_checkout(checkout: Path) -> None:
    assert git_commit() is None


@pytest.mark.parametrize(("name", "suffix"), [("package/file.py", "-dirty"), ("package/untracked.py", "")])
def test_the_commit_is_that_of_the_checkout_and_says_where_a_tracked_file_differs(
    checkout: Path, name: str, suffix: str
) -> None:
    git(checkout, "init")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    git(checkout, "tag", "v1")
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_commit() == commit and len(commit) == 40
    git_commit.cache_clear()
    (checkout / name).write_text("2")
    assert git_commit() == commit + suffix
