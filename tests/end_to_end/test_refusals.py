"""All that compare refuses, plan refuses, in the same words; on the testbed, in this process."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sails_eval.cli import main
from sails_eval.models import loaded
from sails_eval.run import compare
from sails_eval.run.folder.run_folder import RunFolder

SMALL = "--methods lora --seeds 1 --learning-rates 1 --limit 2 --tokens 400"


class Here:
    """Stands for the worker processes."""

    def run(self, function: Callable[[Any], Any], item: Any) -> Any:
        return function(item)

    def rest(self) -> None:
        """There are none."""


class BegunError(Exception):
    """The comparison would begin."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what a comparison may be given by mistake; whatever compare does not refuse, it begins and ends."""
    folder = tmp_path_factory.mktemp("refusals")

    @contextlib.contextmanager
    def workers(jobs: int, *, quiet: bool) -> Iterator[Here]:
        yield Here()

    def begin(*given: object) -> None:
        raise BegunError

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("SAILS_EVAL_CACHE", str(folder / "cache"))
        patch.setenv("OPENAI_API_KEY", "not-a-key")
        patch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
        patch.setattr(compare, "workers", workers)
        patch.setattr(compare, "_find_subspaces", begin)
        (folder / "file").touch()
        (folder / "taken").mkdir()
        (folder / "taken" / "notes.txt").touch()
        assert main(f"compare {SMALL} --out begun -q".split()) == 1  # leaves a run that is not finished
        patch.setattr(RunFolder, "opened", begin)
        yield folder
    loaded.BASE_MODEL.drop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("--out file", "--out file: file is a file, not a folder"),
        ("--out file/below", "--out file/below: file is a file, not a folder"),
        ("--out taken", "taken: not empty and not a run folder"),
        ("--out begun --seeds 2", "begun: contains another run, which differs in seeds"),
        ("--add full --against begun", "--against begun: not finished"),
        ("--add full --against taken", "--against taken: not a run folder"),
        ("--add full", "--against RUN must be given together"),
        ("--jobs 0", "--jobs: input should be"),
        ("--keep some", "argument --keep: invalid choice"),
        ("--engine openai:http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1"),
        ("--judge openai:m", "http://127.0.0.1:9/v1"),
        ("--reference openai:m", "http://127.0.0.1:9/v1"),
        ("--checkpoints 1000", "--checkpoints 1000: sft trains for only 1 steps"),
        ("--steps 1 --examples 4,64 --tokens 0", "--tokens: input should be"),
        ("--examples 4,64", "--examples 64: cells of pair 'testbed' would see only"),
        ("--max-new-tokens 100000", "max_gen_toks leaves"),
        ("--methods sails --contrast-examples 100000", "--contrast-examples 100000: more than the"),
        ("--attn-implementation nothing", "cannot load it: Specified `attn_implementation="),
        ("--attn-implementation flash_attention_2", "cannot load it: FlashAttention2 has been toggled on"),
        ("--target-modules nothing", "unknown target module 'nothing'"),
        ("--device cuda", "--device cuda: torch finds no such GPU"),
        ("--calibration file", "file: not a calibration"),
        ("--comparisons lora:nothing", "unknown method in comparisons 'nothing'"),
        ("--train file", "file: unknown file type"),
        ("--task-data advbench=nowhere", "--task-data advbench=nowhere: no such file"),
        ("", ""),
    ],
)
def test_plan_refuses_what_compare_refuses(
    place: Path, wrong: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(command: str) -> SimpleNamespace:
        words = f"{command} -q {'' if '--against' in wrong else SMALL} {wrong}".split()
        try:
            status = main(words)
        except SystemExit as end:
            status = int(str(end.code))
        out, error = capsys.readouterr()
        return SimpleNamespace(status=status, told=" ".join((out + error).split()))

    plan, run = said("plan"), said("compare")
    if not wrong:
        assert plan.status == 0 and "nothing is missing" in plan.told and "BegunError" in run.told
        return
    assert plan.status in (1, 2) and told in plan.told and "internal error" not in plan.told
    assert run.status == 2 and told in run.told
