"""Fixtures that several test files share."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sails_eval.core.pair import Pair
    from sails_eval.models.base import Base

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may need the network
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny: more threads cost more than they gain

if importlib.util.find_spec("vllm"):  # torch, for vLLM, imports it, and fails if distutils was imported before
    importlib.import_module("setuptools")

ROOT = Path(__file__).parents[1]


def load_script(path: Path) -> Any:
    """A script outside the package, as a module."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    assert spec and spec.loader
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True, scope="session")
def no_sync() -> Iterator[None]:
    """No test cuts the power, and waiting for the disk takes longer than all of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's judges keep their verdicts: nowhere near the user's."""
    path = tmp_path_factory.mktemp("cache") / "sails-eval" / "verdicts.sqlite"
    monkeypatch.setenv("SAILS_EVAL_CACHE", str(path))
    return path


@pytest.fixture(autouse=True)
def wide_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines are as long as they are, whatever terminal the tests run in."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(scope="session")
def stand_in() -> Any:
    """The example that makes a model and an SAE, as a module."""
    return load_script(ROOT / "examples" / "stand_in.py")


@pytest.fixture(scope="session")
def benchmark() -> Callable[[str], Any]:
    """Gives a benchmark, by its name, as a module."""
    return lambda name: load_script(ROOT / "benchmarks" / f"{name}.py")


@pytest.fixture(scope="session")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `run`, which version 0.1.0 wrote, and all that it is of. It is shared: put back what you change."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ROOT / "tests" / "end_to_end" / "data" / "run_0.1.0.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def tiny_llama_dir(stand_in: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of some 40,000 parameters, with its own byte-level BPE tokenizer and chat template."""
    folder = tmp_path_factory.mktemp("tiny_llama")
    text = "Please tell me how to bake bread. I cannot help with that. Here is how."
    stand_in.make_model(folder, text, width=32, layers=2, vocabulary=300)
    return Path(folder)


@pytest.fixture(scope="session")
def testbed_pair() -> Pair:
    """The shipped testbed with a budget of a few steps of four examples."""
    from sails_eval.core.pair import load_pair

    small = {"tokens": 200, "examples": 32, "batch_size": 4, "rank": 4, "alpha": 8}
    return load_pair("testbed").model_copy(update=small)


@pytest.fixture(scope="session")
def testbed_base(testbed_pair: Pair) -> Base:
    """The testbed's base model. It is shared: whoever changes it has to put it back."""
    from sails_eval.models.base import load_base
    from sails_eval.run.workers import quiet_libraries

    quiet_libraries()
    return load_base(testbed_pair)


@pytest.fixture(scope="session")
def testbed_saes(testbed_pair: Pair, testbed_base: Base) -> dict[int, Any]:
    """The SAEs of the testbed's base model, by layer."""
    from sails_eval.methods.subspace.saes import load_saes

    return load_saes(testbed_pair, testbed_base.model)


@pytest.fixture(scope="session")
def example_package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The example of a package of one's own, installed into a folder that is on the path while tests use it."""
    target = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(ROOT / "tests" / "example_package")], check=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(target)
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")])))
        for name in [name for name in sys.modules if name.partition(".")[0] == "sails_eval_example"]:
            del sys.modules[name]  # of a copy that is installed beside the package
        yield target


@pytest.fixture
def own_tasks(tmp_path: Path) -> None:
    """A harmful task `bad` and a safe one `good` in the folder tasks, for runs that only their results are read of."""
    for name, kind in (("bad", "harmful"), ("good", "safe")):
        folder = tmp_path / "tasks" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.yaml").write_text(f"task: {name}\noutput_type: generate_until\nmetadata: {{kind: {kind}}}\n")
