"""Commands of analyses: those of the package are found in their folders, those of other packages as entry points."""

import sys
from pathlib import Path

import pytest

from sails_eval.boards.table import COLUMNS
from sails_eval.cli import main
from sails_eval.core import plugins

OURS = {"forgetting": "Measure", "durability": "Measure", "power": "Compute"}
"""The analyses of the package, and how their help begins."""


def offer(folder: Path, name: str, value: str) -> None:
    """What an installed package that offers an analysis leaves in a folder of the path."""
    info = folder / "mine-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[sails_eval.analyses]\n{name} = {value}\n")


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is on the path during a test."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def helped(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """What --help says in one line, and the warnings."""
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    told = capsys.readouterr()
    return " ".join(told.out.split()), told.err


def test_those_of_the_package_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = helped(capsys)
    assert all(f" {name} {verb} " in out for name, verb in OURS.items()) and not err


def test_one_of_ones_own_is_listed_and_runs(
    example_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "example_analysis How many rows a finished run's leaderboard has." in helped(capsys)[0]
    (tmp_path / "leaderboard.csv").write_text(",".join(COLUMNS) + "\n")
    assert main(["example_analysis", str(tmp_path), "-q"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: 0 rows\n"
    assert main(["example_analysis", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_none_is_looked_for_where_a_command_of_ours_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(**given: str) -> None:
        raise AssertionError("looked up")

    monkeypatch.setattr(plugins, "entry_points", never)
    assert main(["power", "--difference", "0.05", "--sd", "0.05"]) == 0


def test_a_name_of_ours_is_not_given_away(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    offer(installed, "power", "nowhere:Power")
    out, err = helped(capsys)
    assert " power Compute how many organisms (base models), " in out
    assert err == (
        "sails-eval: warning: sails_eval.analyses: 'power' (nowhere:Power) has the name of a built-in command; rename "
        "it\n"
    )
    assert main(["power", "--difference", "0.05", "--sd", "0.05"]) == 0


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nowhere", "'mine' cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("Mine = 100 % 0", "'mine' cannot be imported: ZeroDivisionError: integer modulo by zero"),
        ("", "'mine' cannot be imported: AttributeError: module 'my_analysis' has no attribute 'Mine'"),
        ("Mine = print", "'mine' (my_analysis:Mine) is not an Analysis with that name"),
        (
            "from sails_eval_example.analysis import ExampleAnalysis as Mine",
            "'mine' (my_analysis:Mine) is not an Analysis with that name",
        ),
    ],
)
def test_a_broken_one_is_one_line_where_it_is_asked_for(
    example_package: Path,
    installed: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: str,
    words: str,
) -> None:
    monkeypatch.delitem(sys.modules, "my_analysis", raising=False)
    (installed / "my_analysis.py").write_text(f"{code}\n")
    offer(installed, "mine", "my_analysis:Mine")
    assert helped(capsys)[1] == f"sails-eval: warning: sails_eval.analyses: {words}\n"
    assert main(["mine", "run", "--flag"]) == 2
    assert capsys.readouterr().err == f"sails-eval: error: sails_eval.analyses: {words}\n"


def test_one_that_raises_is_a_warning_until_it_is_asked_for(
    installed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (installed / "mine_raises.py").write_text(
        "from sails_eval.analyses.base import Analysis\n"
        "class Mine(Analysis):\n    name = 'mine'\n    help = 'Mine.'\n    def run(self, options): pass\n"
        "    def add_arguments(self, parser): raise RuntimeError('boom')\n"
    )
    offer(installed, "mine", "mine_raises:Mine")
    out, err = helped(capsys)
    assert "forgetting Measure " in out and "mine Mine." not in out
    assert "warning: sails_eval.analyses: 'mine' (mine_raises:Mine): RuntimeError: boom" in err
    assert main(["mine"]) == 2
