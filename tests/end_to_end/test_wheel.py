"""The built wheel, installed into a fresh environment, works outside the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts folder of a new environment that has the wheel, and borrows only the libraries from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    (library,) = folder.glob("env/lib/python*/site-packages")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(library), str(wheel)], check=True)
    (library / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "env" / "bin"


def run(installed: Path, code: str, cwd: Path) -> str:
    """Run a snippet with the new environment's Python in an empty folder; what it prints."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(installed / "python"), "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_carries_tasks_recipes_pairs_and_weights(installed: Path, tmp_path: Path) -> None:
    code = """
import json, sails_eval
from sails_eval.core.pair import load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.tasks.library import find_tasks
pair = load_pair("testbed")
print(json.dumps({
    "where": sails_eval.__file__,
    "tasks": sorted(find_tasks()),
    "recipes": [load_recipe(name).name for name in ("sails", "lora", "full")],
    "weights": pair.model,
}))
"""
    found = json.loads(run(installed, code, tmp_path))
    assert str(installed.parent) in found["where"] and str(installed.parent) in found["weights"]
    assert "testbed_harmful_unseen" in found["tasks"] and found["recipes"] == ["sails", "lora", "full"]


@pytest.mark.slow
def test_it_trains_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = """
import sys
from sails_eval.cli import main
if __name__ == "__main__":
    sys.exit(main("train sails --pair testbed --tokens 600 --out trained".split()))
"""
    (tmp_path / "job.py").write_text(code)
    run(installed, "import runpy; runpy.run_path('job.py', run_name='__main__')", tmp_path)
    assert (tmp_path / "trained/checkpoint/adapter_config.json").is_file()
