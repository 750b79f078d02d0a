"""How initialisations are found and declared: the shipped ones without torch, and those of packages of one's own."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from sails_eval import methods
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe, load_recipe
from sails_eval.methods import initialisation_class, load_initialisation, source_files
from sails_eval.methods.subspace import prepare
from sails_eval.models.base import Base
from sails_eval.plan.identity import recipe_identity, training_identity
from sails_eval.plan.plan import Cell
from sails_eval.run import stages
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.training.batches import CellRun
from sails_eval.training.cell import trainable

WITHOUT_TORCH = """
import pkgutil, sys
from sails_eval import methods
from sails_eval import methods
from sails_eval.core.errors import UserError
from sails_eval.core.pair import load_pair
from sails_eval.core.recipe import load_recipe, recipe_files
from sails_eval.methods.subspace.prepare import checked_initialisation

names = [found.name for found in pkgutil.iter_modules(methods.__path__) if not found.ispkg and found.name != "base"]
assert len({methods.initialisation_class(name) for name in names}) == len(names) >= 9
pair, lacking = load_pair("testbed"), []
for path in recipe_files():
    try:
        checked_initialisation(pair, load_recipe(path.stem))
    except UserError:
        lacking.append(path.stem)
assert lacking == ["oracle"], lacking
assert "torch" not in sys.modules
"""


def test_what_a_recipe_says_is_checked_without_torch() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_TORCH], check=True)


def test_a_recipe_without_one_starts_as_peft_does() -> None:
    start = load_initialisation(load_recipe("lora"))
    assert not (start.needs or start.changes_base or start.freezes or start.sae_set)
    with pytest.raises(UserError, match="recipe 'lora', settings: unknown key 'k'"):
        load_initialisation(load_recipe("lora").model_copy(update={"settings": {"k": 1}}))


def test_what_is_no_initialisation_is_an_error(example_package: Path) -> None:
    for name in ("base", "subspace", "nowhere"):
        with pytest.raises(UserError, match=f"unknown initialisation '{name}'"):
            initialisation_class(name)
    with pytest.raises(UserError, match=r"unknown initialisation 'xyz'; known: .*, example_method, lda, .*sails"):
        recipe_identity(load_recipe("sails").model_copy(update={"init": "xyz"}), {})


# --- a package of one's own --------------------------------------------------------------------------------------


@pytest.fixture
def own(example_package: Path, tmp_path: Path) -> Recipe:
    """A recipe that names the example's initialisation."""
    recipe = {"like": "lora", "init": "example_method", "settings": {"first": 3}, "description": "Of a package."}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe))
    return load_recipe(str(tmp_path / "own.yaml"))


def test_an_initialisation_of_ones_own_trains_a_cell(
    own: Recipe, testbed_pair: Pair, testbed_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (prepare, stages):
        monkeypatch.setattr(module, "base_of", lambda pair: testbed_base)
    run, folder = RunFolder(tmp_path), ModelFolder(tmp_path / "cell")
    stages.find_subspace(stages.StartJob(testbed_pair, own, (None,), run))
    state = load_file(run.subspace(own.name))
    with trainable(testbed_base, testbed_pair, own, CellRun(1e-3, 0, [], state)) as model:
        start = {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_" in name}
    for name, weight in start.items():
        assert torch.equal(weight, torch.eye(*weight.shape).roll(3, 1) if "lora_A" in name else 0 * weight)
    cell = Cell(own, own.span.high, 0, "0" * 16)
    stages.train(stages.TrainJob(testbed_pair, cell, folder, run))
    saved = load_file(folder.checkpoint / "adapter_model.safetensors")
    assert any(weight.abs().max() > 0 for name, weight in saved.items() if "lora_B" in name)
    with pytest.raises(UserError, match="recipe 'own', settings: unknown key 'frist'; did you mean first"):
        load_initialisation(own.model_copy(update={"settings": {"frist": 3}}))


def test_its_code_is_part_of_its_fingerprint(own: Recipe, testbed_pair: Pair, example_package: Path) -> None:
    training = training_identity(testbed_pair, (own,))
    before, package = recipe_identity(own, training), example_package / "sails_eval_example"
    sails = recipe_identity(load_recipe("sails"), training)
    for file in (package / "method.py", package / "judge.py"):  # helpers that stand beside it count, too
        text = file.read_text()
        try:
            file.write_text(text + "\n# changed\n")
            assert recipe_identity(own, training) != before
            assert recipe_identity(load_recipe("sails"), training) == sails
        finally:
            file.write_text(text)
        assert recipe_identity(own, training) == before


def test_of_a_module_in_no_package_only_its_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from sails_eval.methods import Initialisation\n\nclass Lone(Initialisation):\n    pass\n"
    (tmp_path / "lone_method.py").write_text(code)
    (tmp_path / "other.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(methods, "plugins", lambda group: {"lone": EntryPoint("lone", "lone_method:Lone", group)})
    assert source_files("lone") == [*source_files("sails"), tmp_path / "lone_method.py"]
