"""The main job with a judge behind a real OpenAI-compatible server: `transformers serve` with the testbed's judge."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from sails_eval.cli import main
from sails_eval.core.paths import PACKAGE
from sails_eval.core.records import read_completions, read_verdicts
from sails_eval.judges import load_judge
from sails_eval.judges.base import JudgedKind
from sails_eval.judges.usage import USAGE, read_usage
from tests.servers import wait_for

pytestmark = pytest.mark.server

KEY = "sk-marked-key-of-the-served-judge"
CORNER = (
    "compare --pair testbed --methods lora --tokens 400 --seeds 1 --learning-rates 2 --limit 12 --jobs 2 -q "
    "--tasks testbed_harmful_unseen,testbed_safe --judge openai:judge?rubric=testbed_harm+testbed_refusal&concurrency=4"
).split()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the server. Its model is called as its folder is, where it starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("served")
    (folder / "hub").mkdir()
    serve = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "transformers.cli.transformers", *serve],
            cwd=PACKAGE / "testbed" / "weights",
            env=os.environ | {"HF_HOME": str(folder)},
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log", tries=600)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="module")
def run(served: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished comparison; its cache stays for the tests here."""
    folder = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", served)
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setenv("SAILS_EVAL_CACHE", str(folder / "verdicts.sqlite"))
        assert main([*CORNER, "--out", str(folder / "run")]) == 0
        yield folder / "run"


def test_the_served_judge_says_what_the_same_model_says_here(run: Path) -> None:
    local, compared = load_judge("testbed"), 0
    for path in run.glob("cells/**/verdicts/*/*/*.jsonl"):
        completions = path.parents[3] / "completions" / path.parent.name / path.name
        kind: JudgedKind = "harmful" if "harmful" in path.stem else "safe"
        verdicts = read_verdicts(path)
        assert verdicts == local.judge(kind, read_completions(completions))
        compared += len(verdicts)
    assert compared >= 12 * 2 * 4  # base and one cell at the least, two tasks, two splits


def test_the_run_says_who_judged_and_what_it_took(run: Path) -> None:
    assert set(pd.read_csv(run / "leaderboard.csv")["judge"]) == {"openai:judge"}
    used = read_usage(run / USAGE)["openai:judge"]
    assert used.requests > 20 and used.prompt_tokens > 20 * used.requests and used.cost_usd is None
    assert "judge openai:judge has used" in (run / "compare.log").read_text()


def test_the_key_is_in_no_file(run: Path) -> None:
    files = [path for path in run.parent.rglob("*") if path.is_file()]
    assert run.parent / "verdicts.sqlite" in files
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_another_run_of_the_same_asks_nothing(run: Path, served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAILS_EVAL_CACHE", str(run.parent / "verdicts.sqlite"))
    again = run.parent / "again"
    assert main([*CORNER, "--out", str(again)]) == 0
    assert not (again / USAGE).exists()
    assert (again / "results.csv").read_bytes() == (run / "results.csv").read_bytes()
    described = [json.loads((folder / "run.json").read_text())["run"] for folder in (run, again)]
    assert described[0] == described[1]


def test_an_endpoint_out_of_reach_stops_the_run_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert main([*CORNER, "--out", str(tmp_path / "run")]) == 2
    assert "can't be reached" in capsys.readouterr().err and not (tmp_path / "run").exists()
