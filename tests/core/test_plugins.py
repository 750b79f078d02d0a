from pathlib import Path

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.plugins import load_plugin, plugins
from sails_eval.core.recipe import load_recipe
from sails_eval.judges import load_judge
from sails_eval.methods import load_initialisation


def test_a_package_of_ones_own_is_found(example_package: Path) -> None:
    assert plugins("judges")["example_judge"].value == "sails_eval_example.judge:ExampleJudge"
    assert set(plugins("methods")) == {"example_method"}


def offer(folder: Path, name: str, **points: str) -> None:
    """What an installed package leaves in a folder of the path: entry points as `judges="mine = mine:Judge"`."""
    info = folder / f"{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text("".join(f"[sails_eval.{g}]\n{line}\n" for g, line in points.items()))


def test_what_cannot_be_imported_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, "broken", judges="broken = nowhere:Judge")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"^sails_eval.judges: 'broken' cannot be imported: ModuleNotFoundError: "):
        load_plugin(plugins("judges")["broken"])


def test_two_of_one_name_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        offer(tmp_path, name, engines=f"same = {name}:Engine")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"two packages offer 'same' as sails_eval.engines: "):
        load_plugin(plugins("engines")["same"])


MODULE = """
from sails_eval.judges.base import Judge
from sails_eval.methods import Initialisation
number = 3
class Abstract(Judge): pass
class Raises(Judge):
    name = fingerprint = "x"
    def judge(self, kind, completions, on_verdict=None): return []
    def __init__(self): raise RuntimeError("boom")
class Nameless(Raises):
    name = ""
    def __init__(self): pass
class Strange(Initialisation):
    Settings = 3
def exits(): raise SystemExit(3)
"""


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("number", "TypeError: 3 is not a callable"),
        ("Abstract", "TypeError: Can't instantiate"),
        ("Raises", "boom"),
        ("Nameless", "it needs a name"),
        ("exits", "SystemExit: 3"),
    ],
)
def test_a_judge_that_cannot_be_made_is_an_error(
    made: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"mine_{made}.py").write_text(MODULE)
    offer(tmp_path, "mine", judges=f"mine = mine_{made}:{made}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"judge 'mine': .*{told}"):
        load_judge("mine")


def test_an_initialisation_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_strange.py").write_text(MODULE)
    offer(tmp_path, "mine", methods="strange = mine_strange:Strange")
    monkeypatch.syspath_prepend(tmp_path)
    recipe = load_recipe("lora").model_copy(update={"init": "strange"})
    with pytest.raises(UserError, match="initialisation 'strange': AttributeError"):
        load_initialisation(recipe)
