from pathlib import Path

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.plugins import load_plugin, plugins


def test_a_package_of_ones_own_is_found(example_package: Path) -> None:
    assert plugins("judges")["example_judge"].value == "sails_eval_example.judge:ExampleJudge"
    assert set(plugins("methods")) == {"example_method"}


def test_what_cannot_be_imported_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "broken-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[sails_eval.judges]\nbroken = nowhere:Judge\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"^sails_eval.judges: 'broken' cannot be imported: No module named 'nowhere'"):
        load_plugin(plugins("judges")["broken"])


def test_two_of_one_name_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[sails_eval.engines]\nsame = {name}:Engine\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"two packages offer 'same' as sails_eval.engines: "):
        plugins("engines")
