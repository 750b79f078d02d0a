"""The stages by themselves: whose failure it is when something goes wrong."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import pytest

from sails_eval.core.errors import CellFailed
from sails_eval.core.pair import load_pair
from sails_eval.models.engines import HF, VLLM
from sails_eval.plan.plan import Cell
from sails_eval.run import stages
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import find_tasks


class Breaks:
    """An engine that breaks."""

    def serving(self, *_: Any) -> AbstractContextManager[Any]:
        raise RuntimeError("a shape that does not fit")


@pytest.mark.parametrize(
    ("cell", "engine", "error"),
    [(object(), HF, CellFailed), (object(), VLLM, RuntimeError), (None, HF, RuntimeError)],
)
def test_a_trained_cell_that_cannot_answer_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cell: object, engine: str, error: type[Exception]
) -> None:
    monkeypatch.setattr(stages, "engine_of", lambda *_: Breaks())
    subject = stages.Subject("lora", ModelFolder(tmp_path / "cell"), cell=cast(Cell | None, cell))
    tasks = (find_tasks()["testbed_safe"],)
    job = stages.AnswerJob(load_pair("testbed"), subject, tasks, "test", RunFolder(tmp_path), engine=engine)
    with pytest.raises(error, match="a shape that does not fit"):
        stages.answer(job)
