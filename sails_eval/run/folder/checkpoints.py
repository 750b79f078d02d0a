"""The several checkpoints of a cell as files: each in a folder of its own, until one is kept as the cell's.

`step-N` in a cell's folder looks like a cell's folder itself, with a checkpoint, answers and verdicts. Those of the
step that is kept move up, to where a cell that is judged at its end only has them: whoever reads them later need not
know.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sails_eval.core.files import read_json, write_json
from sails_eval.run.folder.layout import CHECKPOINT, step_folder

STOPPED = "stopped.json"
"""In the folder of a cell: the step that is kept, and the alignment score of each on validation."""


def place_steps(saved: Path, folder: Path) -> None:
    """Move the checkpoints of a cell that was trained, which are called after their steps, to their places."""
    for checkpoint in sorted(saved.iterdir()):
        place = step_folder(folder, int(checkpoint.name))
        shutil.rmtree(place / CHECKPOINT, ignore_errors=True)
        place.mkdir(exist_ok=True)
        checkpoint.rename(place / CHECKPOINT)
        write_json(place / "train.json", {"steps": int(checkpoint.name)}, indent=None)
    saved.rmdir()
    if (folder / STOPPED).exists():  # it was trained again, for a checkpoint that is gone
        take_up(folder)


def steps_of(folder: Path) -> list[int]:
    """After which steps a trained cell has a checkpoint, ascending."""
    return sorted(int(place.name.removeprefix("step-")) for place in folder.glob("step-*"))


def stop(folder: Path, scores: dict[int, float]) -> None:
    """Keep the step with the best score; of equal ones the first."""
    best = min(scores, key=lambda step: (-scores[step] if scores[step] == scores[step] else float("inf"), step))
    told = {str(step): score if score == score else None for step, score in sorted(scores.items())}
    write_json(folder / STOPPED, {"step": best, "alignment_score": told})


def stopped(folder: Path) -> dict[str, Any]:
    """What `stop` wrote."""
    return read_json(folder / STOPPED)


def take_up(folder: Path) -> None:
    """Move what belongs to the step that is kept to the cell's folder, as far as it is not there yet."""
    place = step_folder(folder, stopped(folder)["step"])
    for name in ("completions", "verdicts", CHECKPOINT):
        if (place / name).exists():
            (place / name).rename(folder / name)


def drop_others(folder: Path) -> None:
    """Delete the checkpoints that were not kept; what they answered stays."""
    for checkpoint in folder.glob(f"step-*/{CHECKPOINT}"):
        shutil.rmtree(checkpoint)
