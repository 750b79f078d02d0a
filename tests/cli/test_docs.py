"""The pages of the documentation: those that messages name exist, the package carries them, and links hold."""

import re
import tomllib
from pathlib import Path

import pytest

from sails_eval.cli import main
from sails_eval.cli.docs import pages
from scripts.pypi_readme import absolute

ROOT = Path(__file__).resolve().parents[2]


def sources() -> list[Path]:
    return [path for top in ("sails_eval", "adapters", "tasks") for path in (ROOT / top).rglob("*.*") if path.is_file()]


def texts() -> dict[Path, str]:
    kinds = (".py", ".yaml", ".md", ".jinja")
    return {path: path.read_text(encoding="utf-8") for path in sources() if path.suffix in kinds}


def test_every_page_that_a_message_names_exists() -> None:
    named = {
        (path.name, page)
        for path, text in texts().items()
        for page in re.findall(r"sails-eval docs ([a-z][a-z-]*)", " ".join(text.replace('"', "").split()))
    }
    assert len(named) > 4, "the pattern finds what it looks for"
    assert [one for one in named if one[1] not in pages()] == []


def test_no_message_names_a_file_that_only_a_checkout_has() -> None:
    assert [path for path, text in texts().items() if re.search(r"\bdocs/\w+\.md", text)] == []


def test_no_link_is_printed_that_leads_nowhere(capsys: pytest.CaptureFixture[str]) -> None:
    for name in pages():
        assert main(["docs", name]) == 0
        assert not re.search(r"\]\((?!https?:)", capsys.readouterr().out), name


def test_docs_lists_and_prints_pages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == list(pages())
    assert main(["docs", "protocol"]) == 0
    title, *_ = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8").splitlines()
    assert capsys.readouterr().out.startswith(f"{title}\n")


def test_an_unknown_page_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs", "protocoll"]) == 2
    assert "protocol" in capsys.readouterr().err


def test_the_wheel_carries_the_pages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]["docs"] == "sails_eval/bundled/docs"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_pypi_readme_has_no_relative_link() -> None:
    text = absolute((ROOT / "README.md").read_text(encoding="utf-8"), "https://github.com/o/r")
    assert re.findall(r"\]\((?!https?://)[^)]*\)", text) == []
    assert "](https://raw.githubusercontent.com/o/r/main/docs/images/pipeline.svg)" in text
    assert "](https://github.com/o/r/blob/main/docs/methods.md)" in text


def test_every_link_between_files_of_the_repository_leads_somewhere() -> None:
    dead = []
    folders = (ROOT, *(ROOT / name for name in ("docs", "leaderboards", "benchmarks")))
    for path in (page for folder in folders for page in folder.glob("*.md")):
        text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text):
            if not (path.parent / link).exists():
                dead.append(f"{path.name}: {link}")
    assert dead == []
