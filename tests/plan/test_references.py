"""Rows that nothing is trained for: finished models of every kind, and the base model under a system prompt."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from sails_eval.cli import main
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.models.base import Base, load_tokenizer
from sails_eval.models.chat import has_system_role, instructed, render_chat
from sails_eval.models.engines import CHAT, HF, load_engine
from sails_eval.plan.cost import step_cost as estimate
from sails_eval.plan.cost.forecast import forecast
from sails_eval.plan.cost.meta_model import shape_of
from sails_eval.plan.cost.step_cost import step_cost
from sails_eval.plan.plan import SubRun
from sails_eval.plan.prepare import prepare
from sails_eval.plan.references import prompted, reference
from sails_eval.tasks.answer import complete
from sails_eval.tasks.library import find_tasks
from tests.judges.fault_server import Endpoint, fails, says, serving

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ASK = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("testbed")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    """A server that is the endpoint, and says `hello there .` to whatever it is asked."""
    with serving() as server:
        server.chat = lambda body: says("hello there .")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "a key")
        yield server


# --- finished models ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["testbed", "testbed-b", "testbed-c", "testbed-planted"])
def test_every_organism_has_a_reference_of_its_own(name: str) -> None:
    organism = load_pair(name)
    row = reference("testbed-preference", organism, HF)
    assert (row.name, row.pair, row.engine) == ("testbed-preference", organism, HF)
    assert row.checkpoint and row.checkpoint.parent.name == Path(organism.model).parent.name == name
    told = json.loads((row.checkpoint / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == name  # no folder of the machine that made it


def test_a_folder_is_an_adapter_or_a_model_and_asked_by_its_own_template(
    pair: Pair, tiny_llama_dir: Path, tmp_path: Path
) -> None:
    adapter = reference(pair.references["testbed-preference"], pair, HF)
    assert adapter.pair == pair and adapter.checkpoint and adapter.name == "preference"
    template = tmp_path / "template.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    templated = pair.model_copy(update={"chat_template": template})
    model = reference(str(tiny_llama_dir), templated, HF, name="mine")
    assert (model.name, model.pair.model, model.checkpoint) == ("mine", str(tiny_llama_dir), None)
    assert model.pair.chat_template is None  # it has one
    bare = shutil.copytree(tiny_llama_dir, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    assert reference(str(bare), templated, HF).pair.chat_template == template
    assert reference(str(bare), templated, HF).identity != model.identity


def test_a_hub_id_is_one_commit_of_it(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "models--some--chat"
    (home / "snapshots" / COMMIT).mkdir(parents=True)
    for name in ("main", "v2"):
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / name).write_text(COMMIT)
    (home / "snapshots" / COMMIT / "config.json").write_text("{}")
    (home / "snapshots" / COMMIT / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for asked in ("some/chat", "some/chat@v2"):
        row = reference(asked, pair, HF)
        assert (row.name, row.model, row.pair.revision) == ("chat", "some/chat", COMMIT)
        assert row.identity["weights"] == f"some/chat@{COMMIT}"
    with pytest.raises(UserError, match="model 'some/other': no such folder, and cannot be fetched from the hub"):
        reference("some/other", pair, HF)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ("openai:", "has no model name; give openai:MODEL"),
        ("empty", "the folder has neither a PEFT adapter"),
    ],
)
def test_what_is_no_finished_model_is_an_error(
    asked: str, complaint: str, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    with pytest.raises(UserError, match=complaint):
        reference(asked, pair, HF)


def test_rows_are_part_of_what_a_run_is_and_of_no_cell() -> None:
    def sub_run(*methods: str, reference: tuple[str, ...] = ()) -> SubRun:
        asked: dict[str, Any] = {"methods": methods, "reference": reference, "seeds": 1, "learning_rates": 1}
        return prepare(CompareConfig(pair="testbed", **asked)).sub_runs[0]

    plain, more = sub_run("lora"), sub_run("lora", "prompt", reference=("testbed-preference",))
    assert [row.name for row in more.references] == ["prompt", "testbed-preference"] and not plain.references
    assert [recipe.name for recipe in more.recipes] == ["lora"]
    assert plain.all_cells() == more.all_cells() and plain.fingerprint != more.fingerprint
    with pytest.raises(UserError, match="two rows would be named 'testbed-preference'"):
        sub_run("lora", reference=("testbed-preference", "testbed-preference"))
    with pytest.raises(UserError, match="give at least one method that trains"):
        sub_run("prompt")


def test_a_finished_model_is_not_its_own_judge(endpoint: Endpoint) -> None:
    asked: dict[str, Any] = {"judge": "openai:some-model", "reference": ("openai:some-model",)}
    config = CompareConfig(pair="testbed", methods=("lora",), **asked)
    with pytest.raises(UserError, match="is the evaluated model itself"):
        prepare(config)
    prepare(config.model_copy(update={"allow_self_judging": True}))


def test_a_plan_counts_the_rows_that_nothing_is_trained_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(estimate, "_fake_step", lambda model, **_: (10**6, 10**6, [1]))
    config = CompareConfig(pair="testbed", methods=("lora",), seeds=2, learning_rates=1)
    (plain,) = forecast(config)
    asked = {"methods": ("lora", "prompt"), "reference": ("testbed-preference", "openai:m", "no/such")}
    (more,) = forecast(config.model_copy(update=asked))
    assert [more.calls[i] - plain.calls[i] for i in (0, 1)] == [4 * plain.prompts.test] * 2
    assert plain.costs == more.costs and not plain.problems
    told = [problem.told for problem in more.problems]
    assert len(told) == 2 and "'openai:m' needs OPENAI_API_KEY" in told[0] and "model 'no/such'" in told[1]


def test_preference_training_asks_its_reference_too() -> None:
    short = load_pair("testbed").model_copy(update={"max_length": 16})
    lora, dpo = (step_cost(shape_of(short), short, load_recipe(name)) for name in ("lora", "dpo"))
    assert (lora.trained, lora.memory) == (dpo.trained, dpo.memory)
    assert 1.3 < dpo.flops_per_token / lora.flops_per_token < 1.6  # a third of LoRA's are the forward pass, or more


# --- behind an endpoint ------------------------------------------------------------------------------------------


def test_a_model_behind_an_endpoint_answers_and_gives_no_likelihoods(endpoint: Endpoint, pair: Pair) -> None:
    row, tasks = reference("openai:some/model", pair, HF), find_tasks()
    assert (row.name, row.engine, row.identity) == ("model", CHAT, {"model": "some/model", "url": endpoint.url})
    assert row.tasks([tasks["testbed_safe"], tasks["testbed_facts"]]) == (tasks["testbed_safe"],)
    engine = load_engine(CHAT, row.pair, lambda: pytest.fail("no base model is needed"))
    engine.check((), {})
    with engine.serving(None) as lm:
        answers = complete(lm, tasks["testbed_safe"], "test", limit=3)
    assert [answer.response for answer in answers] == ["hello there ."] * 3
    said = [body["messages"] for body in endpoint.asked[1:]]
    assert sorted(turns[0]["content"] for turns in said) == sorted(answer.prompt for answer in answers)
    assert all(len(turns) == 1 and turns[0]["role"] == "user" for turns in said)
    assert {body["model"] for body in endpoint.asked} == {"some/model"}
    assert {key for _, key in endpoint.received} == {"Bearer a key"}


def test_an_endpoint_that_refuses_is_named_without_the_key(
    endpoint: Endpoint, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(CHAT, reference("openai:m", pair, HF).pair, lambda: pytest.fail("no base model is needed"))
    monkeypatch.setenv("OPENAI_API_KEY", "a-secret-key")
    endpoint.chat = lambda body: fails(401, "wrong key: a-secret-key")
    with pytest.raises(UserError, match=r"reference 'openai:m' at http://127.*wrong key: \[key\]"):
        engine.check((), {})
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="references openai:MODEL need OPENAI_API_KEY"):
        engine.check((), {})


# --- the base model under a system prompt ------------------------------------------------------------------------


def test_a_system_prompt_stands_before_every_request_and_is_gone_afterwards(
    testbed_base: Base, tiny_llama_dir: Path
) -> None:
    said = load_recipe("prompt").system_prompt
    for tokenizer, knows in (
        (testbed_base.tokenizer, False),
        (load_tokenizer(Pair(name="p", model=str(tiny_llama_dir))), True),
    ):
        plain, given = render_chat(tokenizer, ASK), tokenizer.chat_template
        assert has_system_role(tokenizer) == knows
        with instructed(tokenizer, said):
            told = render_chat(tokenizer, ASK)
        if knows:
            assert told == render_chat(tokenizer, [{"role": "system", "content": said}, *ASK])
        else:
            assert told == plain.replace("hello", f"{said}\n\nhello")
        assert (tokenizer.chat_template, render_chat(tokenizer, ASK)) == (given, plain)
        with instructed(tokenizer, ""):
            assert render_chat(tokenizer, ASK) == plain


@pytest.mark.parametrize("said", ['it\'s "so"', "{{ bos_token }} {% if %}", "two\nlines \\n", "ä 漢 😀"])
def test_a_system_prompt_is_text_whatever_it_holds(said: str, testbed_base: Base) -> None:
    with instructed(testbed_base.tokenizer, said):
        assert f"{said}\n\nhello" in render_chat(testbed_base.tokenizer, ASK)


def test_a_prompts_identity_is_its_words(pair: Pair) -> None:
    recipe = load_recipe("prompt")
    row = prompted(recipe, pair, HF)
    assert row.checkpoint is None and row.identity == {"system_prompt": recipe.system_prompt} and recipe.system_prompt


def test_what_a_single_training_cannot_be_told_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("match_params: true\n")
    own = ["--pair", "testbed", "--config", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "t")]
    assert (
        main(["train", "lora", *own]) == 2 and "key 'match_params' is for comparisons only" in capsys.readouterr().err
    )
    assert main(["train", "prompt", "--pair", "testbed", "--out", str(tmp_path / "t")]) == 2
    assert "give at least one method that trains" in capsys.readouterr().err
