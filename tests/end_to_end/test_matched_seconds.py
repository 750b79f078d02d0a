"""A run in which methods have the same seconds."""

import json
from pathlib import Path

import pandas as pd
import pytest

from sails_eval.analyses.finished_run import finished_runs
from sails_eval.cli import main


@pytest.mark.slow
def test_a_run_that_matches_seconds_goes_on_with_the_same_cells(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        *"compare --pair testbed --methods lora,full --seeds 1 --learning-rates 1 --limit 4 -q --match seconds".split(),
        *["--tasks", "testbed_harmful_unseen,testbed_safe", "--tokens", "1500", "--out", str(run)],
    ]
    assert main(command) == 0
    results, pace = (run / "results.csv").read_bytes(), json.loads((run / "pace.json").read_text())
    assert set(pace["recipes"]) == {"lora", "full"} and (pd.read_csv(run / "budget.csv")["matched_seconds"] > 0).all()
    (run / "results.csv").unlink()
    cells = {path: path.stat().st_mtime_ns for path in run.glob("cells/*/*/train.json")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in run.glob("cells/*/*/train.json")} == cells
    assert (run / "results.csv").read_bytes() == results and json.loads((run / "pace.json").read_text()) == pace
    (found,) = finished_runs(run)  # what is measured afterwards finds these cells, too
    assert {found.run.cell(cell).path for cell in found.plan.all_cells()} == {path.parent for path in cells}
