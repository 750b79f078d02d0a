"""The evaluated model does not judge itself unless told to."""

from pathlib import Path

import pytest

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.judges.self_judging import check_not_itself
from sails_eval.plan.prepare import prepare
from sails_eval.run.evaluate import evaluate


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "cache" / "models--google--gemma-2-2b" / "snapshots" / "abc").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("judge", "model"),
    [
        ("hf:mine", "./mine"),
        ("hf:link?batch_size=2", "mine"),
        ("hf:Google/Gemma-2-2b", "google/gemma-2-2b"),
        ("hf:someone/mine", "mine"),
        ("openai:gemma-2-2b", "google/gemma-2-2b"),
        ("openai:google/gemma-2-2b?concurrency=4", "google/gemma-2-2b"),
        ("openai:mine", "./mine"),
        ("zoo:xstest?model=mine", "mine"),
        ("rules,zoo:harmbench?other=openai:mine", "mine"),
        ("rules,hf:other,openai:mine", "mine"),
        ("zoo:harmbench?other=hf:mine", "mine"),
        ("zoo:llama_guard_3", "meta-llama/Llama-Guard-3-8B"),
        ("openai:google/gemma-2-2b:free", "google/gemma-2-2b"),
        ("hf:google/gemma-2-2b/", "google/gemma-2-2b"),
        ("hf:cache/models--google--gemma-2-2b/snapshots/abc", "google/gemma-2-2b"),
    ],
)
def test_the_same_model_is_recognised(models: Path, judge: str, model: str) -> None:
    with pytest.raises(UserError, match=r"is the evaluated model itself .*--allow-self-judging"):
        check_not_itself(judge, model)


@pytest.mark.parametrize(
    ("judge", "model"),
    [
        ("rules", "rules"),
        ("testbed", "mine"),
        ("hf:other", "mine"),
        ("hf:google/gemma-2-2b-it", "google/gemma-2-2b"),
        ("hf:unsloth/gemma-2-2b", "google/gemma-2-2b"),
        ("openai:gpt-4o-mini", "google/gemma-2-2b"),
        ("zoo:harmbench", "harmbench"),
    ],
)
def test_other_models_may_judge(models: Path, judge: str, model: str) -> None:
    check_not_itself(judge, model)


def itself(**more: object) -> CompareConfig:
    from sails_eval.core.pair import load_pair

    model = load_pair("testbed").model
    return CompareConfig(pair="testbed", methods=("lora",), judge=f"rules,hf:{model},testbed", **more)  # type: ignore[arg-type]


def test_a_comparison_is_refused_unless_that_is_wanted() -> None:
    with pytest.raises(UserError, match="is the evaluated model itself"):
        prepare(itself())
    assert "hf:" in prepare(itself(allow_self_judging=True)).sub_runs[0].judge.spec


def test_an_evaluation_compares_with_its_target(tiny_llama_dir: Path, tmp_path: Path) -> None:
    config = CompareConfig(pair="testbed", judge=f"hf:{tiny_llama_dir}", out=tmp_path / "run")
    with pytest.raises(UserError, match="is the evaluated model itself"):
        evaluate(config, str(tiny_llama_dir), quiet=True)
    assert not (tmp_path / "run").exists()
