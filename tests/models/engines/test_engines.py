"""Engines: which one is meant, what is refused early, what a run is known by, adapters that do nothing."""

import json
from pathlib import Path

import pytest

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, load_pair
from sails_eval.models import engines
from sails_eval.models.engines import engine_identity, load_engine, resolve_engine, served
from sails_eval.models.saved_adapter import check_rank, max_rank
from sails_eval.plan.plan import EvaluationPlan
from sails_eval.plan.prepare import prepare_evaluation
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.runner import Evaluator
from sails_eval.tasks.answer import complete
from sails_eval.tasks.library import find_tasks


def having(monkeypatch: pytest.MonkeyPatch, *, vllm: bool, gpu: bool) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: object() if vllm else None)
    monkeypatch.setattr(engines, "has_gpu", lambda: gpu)
    monkeypatch.setattr(engines, "version", lambda name: "0.32.0")


@pytest.mark.parametrize(("vllm", "gpu", "meant"), [(True, True, "vllm"), (True, False, "hf"), (False, True, "hf")])
def test_auto_is_vllm_where_it_is_installed_and_a_gpu_is_there(
    monkeypatch: pytest.MonkeyPatch, vllm: bool, gpu: bool, meant: str
) -> None:
    having(monkeypatch, vllm=vllm, gpu=gpu)
    assert resolve_engine("auto") == meant
    assert resolve_engine("hf") == "hf"


def test_an_engine_that_is_not_there_is_refused_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, vllm=False, gpu=False)
    with pytest.raises(UserError, match=r"vLLM is not installed here; pip install 'sails-eval\[vllm\]'"):
        resolve_engine("vllm")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("vlm", "unknown engine 'vlm'; did you mean vllm"),
        ("openai", "not of the form openai:http://HOST:PORT/v1"),
        ("openai:localhost:8000", "not of the form openai:http://HOST:PORT/v1"),
        ("openai:http://me:secret@host/v1", "no password and no '.' in the URL"),
        ("openai:http://host/v1?key=secret", "no password and no '.' in the URL"),
        ("openai:host/v1?key=secret", "not of the form"),
    ],
)
def test_engines_that_are_none_are_refused(asked: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        resolve_engine(asked)
    assert "secret" not in str(error.value)


def test_ending_loops_is_part_of_what_an_engine_is_known_by() -> None:
    """Of those that do it, and where the pair has it: a run of the testbed is what it was."""
    real, testbed = Pair(name="p", model="m", dtype="float32"), load_pair("testbed")
    assert engine_identity("hf", real) == {"name": "hf", "end_loops": {"periods": [12, 64], "times": 5}}
    assert engine_identity("hf", testbed) == {"name": "hf"}
    assert engine_identity("openai:http://here/v1", real) == {"name": "openai", "url": "http://here/v1"}
    assert served(real).end_loops and not served(testbed).end_loops


def test_an_engine_of_ones_own_package_is_asked_for_by_its_name(example_package: Path, testbed_pair: Pair) -> None:
    assert resolve_engine("example_engine") == "example_engine"
    said = engine_identity("example_engine", testbed_pair)
    assert said == {"name": "example_engine", "version": "0.1.0", "settings": {}}
    engine = load_engine("example_engine", testbed_pair, lambda: pytest.fail("it loads what it needs"))
    engine.check((), {})
    with engine.serving(None) as lm:
        answers = complete(lm, find_tasks()["testbed_safe"], "test", limit=2)
    assert all(answer.response.startswith("SURE , USE THE ") for answer in answers)
    with pytest.raises(UserError, match="unknown engine 'example_engin'; did you mean example_engine"):
        resolve_engine("example_engin")
    with pytest.raises(UserError, match="unknown engine 'other'; known: auto, example_engine, hf, openai:BASE_URL"):
        resolve_engine("other")


def test_what_is_no_engine_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch, testbed_pair: Pair) -> None:
    monkeypatch.setattr(engines, "plugins", lambda group: {"odd": None})
    monkeypatch.setattr(engines, "load_plugin", lambda point: lambda pair: pair)
    with pytest.raises(
        UserError, match=r"engine 'odd': Pair is not a subclass of sails_eval\.models\.engines\.base\.Engine"
    ):
        load_engine("odd", testbed_pair, lambda: pytest.fail("not asked for"))


def test_answers_of_another_engine_make_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    having(monkeypatch, vllm=True, gpu=False)
    config = CompareConfig(pair="testbed", judge="rules")
    asked = [config.model_copy(update={"engine": name}) for name in ("auto", "hf", "vllm", "openai:http://a/v1/")]
    plans = [prepare_evaluation(one) for one in asked]
    assert [plan.engine for plan in plans] == ["hf", "hf", "vllm", "openai:http://a/v1"]
    assert plans[0].fingerprint == plans[1].fingerprint
    assert len({plan.fingerprint for plan in plans}) == 3
    pair = plans[2].pair.model_copy(update={"engine": {"max_model_len": 128}})
    assert engine_identity("vllm", pair) != engine_identity("vllm", plans[2].pair)
    assert engine_identity("hf", pair) == engine_identity("hf", plans[2].pair)


def test_budgets_of_one_pair_share_an_engine() -> None:
    pair = load_pair("testbed")
    assert served(pair) == served(pair.model_copy(update={"examples": 16, "tokens": 9, "tasks": ("x",)}))
    assert served(pair) != served(pair.model_copy(update={"rank": 16}))
    assert served(pair) != served(load_pair("testbed-b"))


@pytest.mark.parametrize(("rank", "limit"), [(1, 8), (8, 8), (9, 16), (16, 16), (200, 256), (257, 320), (512, 512)])
def test_the_limit_is_the_lowest_that_vllm_permits(testbed_pair: Pair, rank: int, limit: int) -> None:
    assert max_rank(testbed_pair.model_copy(update={"rank": rank})) == limit
    assert max_rank(testbed_pair.model_copy(update={"engine": {"max_lora_rank": rank}})) == limit


def test_a_rank_beyond_vllm_is_refused(testbed_pair: Pair) -> None:
    with pytest.raises(UserError, match="rank 513 is above 512, the highest that vLLM permits; give --engine hf"):
        max_rank(testbed_pair.model_copy(update={"rank": 513}))


def test_adapters_are_read_before_an_engine_meets_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no adapter_config\.json there"):
        check_rank(tmp_path / "nowhere", 8)
    config = {"peft_type": "LORA", "r": 8, "rank_pattern": {"q_proj": 32}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors there"):
        check_rank(tmp_path, 8)
    (tmp_path / "adapter_model.safetensors").touch()
    check_rank(tmp_path, 32)
    with pytest.raises(UserError, match=r"rank 32 is above the limit of 16 .* 'engine: \{max_lora_rank: 32\}'"):
        check_rank(tmp_path, 16)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(UserError, match="an adapter of type IA3; vLLM serves LORA only; give --engine hf"):
        check_rank(tmp_path, 16)


def test_where_one_answer_differs_nothing_is_said(tmp_path: Path, testbed_pair: Pair) -> None:

    from sails_eval.core.files import write_jsonl
    from sails_eval.core.records import Completion
    from sails_eval.run.stages import Subject

    task = find_tasks()["testbed_safe"]
    plan = EvaluationPlan(testbed_pair, (task,))
    evaluator = Evaluator(plan, RunFolder(tmp_path), pool=None, hosts=None)  # type: ignore[arg-type]
    base, one, other = (Subject(name, ModelFolder(tmp_path / name)) for name in ("base", "one", "other"))
    for subject, last in ((base, "b"), (one, "b"), (other, "c")):
        said = [Completion(str(i), "p", text, "") for i, text in enumerate(("a", last))]
        write_jsonl(subject.folder.answers_file("test", task.name), said)
    assert evaluator.unchanged([one, other], base) == [one]
    assert evaluator.unchanged([one, other], base, 1) == [one, other]
