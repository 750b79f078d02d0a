import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core import checksums
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import write_text
from sails_eval.core.pair import Pair, read_yaml
from sails_eval.plan.identity import Identity
from sails_eval.plan.plan import SubRun
from sails_eval.run.folder import run_folder
from sails_eval.run.folder.description import describe
from sails_eval.run.folder.records import Description
from sails_eval.run.folder.run_folder import RunFolder

CONFIG = CompareConfig(
    methods=("lora",), model="m", sae=(Path("a/sae"),), tasks=("t",), judge="rules", tokens=10, out=Path("run")
)
IDENTITY: dict[str, Any] = {
    "tasks": {"a": "1", "b": "2"},
    "environment": {"torch": "2", "python": "3"},
    "training": {"tokens": 10, "model": {"weights": "w", "dtype": "float32"}},
    "seeds": 5,
}


def a_sub_run(**changes: Any) -> SubRun:
    pair = Pair(name="mine", model="m", tokens=10)
    return SubRun(pair, (), Identity(**IDENTITY | changes), seeds=tuple(range(5)), learning_rates=6)


def described(**changes: Any) -> Description:
    return describe(a_sub_run(**changes))


def test_a_new_run_says_what_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "new"
    with RunFolder(folder).opened(CONFIG, described()) as told:
        assert json.loads((folder / "run.json").read_text()) == told.model_dump(mode="json", by_alias=True)
    assert told.identity.told() == IDENTITY and told.run == a_sub_run().fingerprint
    assert (told.pair, told.budget) == ("mine", "10 tokens, 6 rates, 5 seeds")
    assert told.environment != told.test_set
    assert told.config is not None and CompareConfig(**told.config) == told.asked(folder) == CONFIG


def test_the_written_config_can_be_read_again(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run").opened(CONFIG, described()):
        pass
    assert read_yaml(tmp_path / "run" / "config.yaml", CompareConfig) == CONFIG


def test_a_run_is_resumed_and_keeps_its_description(tmp_path: Path) -> None:
    with RunFolder(tmp_path).opened(CONFIG, described()) as first:
        (tmp_path / "work").write_text("done")
    past = first.model_copy(update={"date": "2020-02-02"})
    past.write(tmp_path / "run.json")
    with RunFolder(tmp_path).opened(CONFIG.model_copy(update={"jobs": 8}), described()) as again:
        assert again == past
    assert (tmp_path / "work").read_text() == "done"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seeds": 2}, "seeds"),
        ({"tasks": {"a": "1", "b": "3"}}, "tasks.b"),
        ({"tasks": {"a": "1", "c": "2"}}, "tasks.b, tasks.c"),
        ({"environment": {"torch": "9", "python": "3"}, "seeds": 1}, "environment.torch, seeds"),
        ({"training": {"tokens": 10, "model": {"weights": "x", "dtype": "float32"}}}, "training.model.weights"),
        ({"limit": 3}, "limit"),
    ],
)
def test_another_comparison_is_refused_and_the_differences_named(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with RunFolder(tmp_path).opened(CONFIG, described()):
        pass
    kept = (tmp_path / "run.json").read_text()
    with (
        pytest.raises(UserError, match=f"^{tmp_path}: contains another run, which differs in {named}; give "),
        RunFolder(tmp_path).opened(CONFIG, described(**changes)),
    ):
        pass
    assert (tmp_path / "run.json").read_text() == kept


def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(UserError, match=f"^{tmp_path}: not empty and not a run folder"),
        RunFolder(tmp_path).opened(CONFIG, described()),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_while_its_folder_was_made_can_be_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Path] = []

    def killed(path: Path, text: str, *, private: bool = False) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write_text(path, text)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for module in (run_folder, checksums):
            patch.setattr(module, "write_text", killed)
        with RunFolder(tmp_path).opened(CONFIG, described()):
            pass
    with RunFolder(tmp_path).opened(CONFIG, described()):
        assert written == [tmp_path / "config.yaml"]  # and run.json last
        assert {"run.json", "config.yaml"} <= {path.name for path in tmp_path.iterdir()}


def test_one_process_at_a_time_works_in_a_run(tmp_path: Path) -> None:
    with RunFolder(tmp_path).opened(CONFIG, described()):
        with (
            pytest.raises(UserError, match=f"^{tmp_path}: in use by another sails-eval process"),
            RunFolder(tmp_path).opened(CONFIG, described()),
        ):
            pass
        with RunFolder(tmp_path / "other").opened(CONFIG, described()):
            pass
    with RunFolder(tmp_path).opened(CONFIG, described()):  # free again
        pass


def test_a_run_keeps_its_log_whoever_begins_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours = logging.getLogger("sails_eval")
    caplog.set_level(logging.NOTSET, logger="sails_eval")  # as where nothing has set up logging
    with RunFolder(tmp_path).opened(CONFIG, described()):
        ours.info("a rate was chosen")
    assert "INFO a rate was chosen" in (tmp_path / "compare.log").read_text() and ours.level == logging.NOTSET


def test_an_error_frees_the_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path).opened(CONFIG, described()):
        raise ZeroDivisionError
    with RunFolder(tmp_path).opened(CONFIG, described()):
        pass
