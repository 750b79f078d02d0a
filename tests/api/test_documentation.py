"""The notebook and the examples of the page on the API run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sails_eval

ROOT = Path(__file__).parents[2]


def read_notebook() -> Any:
    import nbformat  # which vLLM's environment, where these tests are collected too, does not have

    return nbformat.read(ROOT / "examples" / "compare.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = read_notebook().cells
    assert len(cells) > 10
    for cell in cells:
        assert cell.cell_type == "markdown" or (cell.outputs, cell.execution_count) == ([], None)


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    notebook = read_notebook()
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=where).execute()  # a cell's error is ours
    told = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "\nTrue\n" in told  # the adapter, loaded by PEFT alone, says what it said in the run
    assert "# Leaderboard of testbed" in told
    (shown,) = (output.data["text/html"] for output in notebook.cells[2].outputs if "data" in output)
    assert "<td>sails</td>" in shown
    assert set(sails_eval.load_run(tmp_path / "runs/notebook").leaderboard["method"]) == {"base", "lora", "sails"}


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), flags=re.DOTALL)
    assert len(examples) == 4
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for number, example in enumerate(examples):
        script = tmp_path / f"example_{number}.py"
        script.write_text(example)
        done = subprocess.run(
            [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    answers, trained = (sails_eval.load_run(tmp_path / "runs" / name) for name in ("mine", "study"))
    mine, sails = answers.samples(), trained.samples(method="sails", seed=0)
    assert set(mine["method"]) == {"mine"} and len(mine) == 24
    assert list(mine["response"]) == list(sails["response"])
