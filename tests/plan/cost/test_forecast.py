import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sails_eval.cli import main
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.training_settings import Regularise
from sails_eval.models.base import Base
from sails_eval.plan.cost import forecast, shown
from sails_eval.plan.cost import step_cost as estimate
from sails_eval.plan.cost.machine import Machine
from sails_eval.plan.cost.meta_model import shape_of, to_train, trained_and_all
from sails_eval.plan.cost.step_cost import Memory, features_memory, sae_width, step_cost, step_costs
from sails_eval.plan.plan import SubRun
from sails_eval.plan.prepare import prepare

PUBLISHED = {
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "llama-3.1-8b": 8_030_261_248,
    "gemma-3-4b": 4_300_079_472,
    "qwen3-8b": 8_190_735_360,
    "smollm2-135m": 134_515_008,
}
"""Parameters of the models, as the hub counts them in their weights' files."""


@pytest.fixture
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of large models take seconds, even fake ones."""
    monkeypatch.setattr(estimate, "_fake_step", lambda model, **_: (10**12, 2 * 10**12, [10**9]))


@pytest.fixture
def short(testbed_pair: Pair) -> Pair:
    return testbed_pair.model_copy(update={"max_length": 16})


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_give_the_published_number_of_parameters(name: str) -> None:
    pair = load_pair(name)
    shape = shape_of(pair)
    assert shape.source == "published sizes"
    assert trained_and_all(to_train(shape, pair, load_recipe("lora")))[1] == PUBLISHED[name]


@pytest.mark.parametrize(("name", "share"), [("gemma-2-2b", "0.244 %"), ("gemma-2-9b", "0.193 %")])
def test_plan_shows_the_share_of_the_default_recipe(
    name: str, share: str, no_steps: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--pair", name, "--tasks", "testbed", "--judge", "openai:m?price_in=1&price_out=2"]) == 2
    told = capsys.readouterr().out
    assert told.count(share) == 2  # sails and lora
    assert "3 methods × 6 rates × 5 seeds = 90" in told and "1,000,000 tokens in batches of 16" in told
    assert "is gated, and there is no token" in told and "needs OPENAI_API_KEY" in told and "no GPU" in told
    calls = 91 * 248 + 91 * 496  # at most: every cell and the base model answer both splits
    assert f"to {calls:,} verdicts" in told and f"at most {calls * (1200 + 2 * 100) / 1e6:.2f} USD" in told


def test_a_vision_tower_is_neither_adapted_nor_trained() -> None:
    pair = load_pair("gemma-3-4b")
    for method in ("lora", "full", "full-linear"):
        model = to_train(shape_of(pair), pair, load_recipe(method))
        trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
        assert trained and all("language_model" in name or "lm_head" in name for name in trained)


@pytest.mark.parametrize("method", ["lora", "full", "full-linear"])
def test_a_fake_step_costs_what_a_real_one_does(method: str, short: Pair, testbed_base: Base) -> None:
    """The same counters, once over real tensors."""
    recipe = load_recipe(method)
    meta = to_train(shape_of(short), short, recipe)
    real = to_train(shape_of(short), short, recipe).to_empty(device="cpu").train()
    real.tie_weights()
    own = {weight.untyped_storage().data_ptr() for weight in real.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    ids = torch.zeros(4, 16, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        real(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss.backward()
    cost = step_cost(shape_of(short), short.model_copy(update={"micro_batch_size": 4}), recipe)
    assert cost.flops_per_token == counter.get_total_flops() / ids.numel()
    sizes = [tensor.untyped_storage().nbytes() for tensor in kept.values()]
    held = sum(size for size in sizes if size != 4 * ids.numel() * real.config.vocab_size)  # TRL keeps no logits
    assert cost.memory.activations == pytest.approx(held, rel=0.02)
    gradients = sum(weight.grad.nbytes for weight in real.parameters() if weight.grad is not None)
    assert cost.memory.gradients == gradients and cost.trained == trained_and_all(meta)[0]


def test_memory_peaks_where_it_is_highest() -> None:
    assert Memory(weights=10, gradients=4, optimiser=8, activations=3, workspace=2).peak == 10 + 8 + 6
    assert Memory(weights=10, gradients=4, optimiser=8, activations=9, workspace=2).peak == 10 + 8 + 11
    assert Memory(weights=10, gradients=4, optimiser=8, activations=9, workspace=2, accumulates=True).peak == 33


def test_checkpointing_keeps_less(short: Pair) -> None:
    saved = short.model_copy(update={"gradient_checkpointing": True})
    lora = load_recipe("lora")
    costs = [step_cost(shape_of(pair), pair, lora).memory.activations for pair in (short, saved)]
    assert 0 < costs[1] < costs[0]


@pytest.mark.parametrize(
    ("name", "features"),
    [("gemma-2-2b", 16384), ("llama-3.1-8b", 32768), ("gemma-3-4b", 16384), ("qwen3-8b", 65536), ("testbed", 512)],
)
def test_the_width_of_saes_is_known_before_they_are_fetched(name: str, features: int) -> None:
    pair = load_pair(name)
    shape = shape_of(pair)
    assert {sae_width(source, shape.text.hidden_size) for source in pair.saes} == {features}
    assert features_memory(shape, pair, parameters=0).weights == len(pair.saes) * features * shape.text.hidden_size * 8


def pair_file(folder: Path, **keys: Any) -> str:
    path = folder / "small.yaml"
    path.write_text(json.dumps({"like": "testbed", "max_length": 16, **keys}))
    return str(path)


def test_a_dry_run_says_that_nothing_is_missing_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = pair_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["compare", "--pair", pair, "--methods", "lora", "--quick", "--checkpoints", "3", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "2 rates × 3 checkpoints = 6 per method and seed" in told
    assert "nothing is missing" in told and "(folder)" in told and "2 rates × 2 seeds = 4" in told
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_more_checkpoints_than_steps_are_told(no_steps: None) -> None:
    config = CompareConfig(pair="testbed", methods=("lora",), tokens=600, checkpoints=5)
    (made,) = forecast.forecast(config)
    assert [problem.told for problem in made.problems] == [
        "--checkpoints 5: a cell takes about 2 steps; give fewer, or more --tokens"
    ]


def test_steps_are_as_they_are_given_and_their_tokens_estimated(no_steps: None) -> None:
    (by_tokens,) = forecast.forecast(CompareConfig(pair="testbed", methods=("lora",)))
    assert by_tokens.steps is not None
    (made,) = forecast.forecast(CompareConfig(pair="testbed", methods=("lora",), steps=(10, by_tokens.steps)))
    assert made.steps == by_tokens.steps  # the most of several
    (grid,) = forecast.forecast(CompareConfig(pair="testbed", methods=("lora",), steps=(10, 20), examples=(8, 16)))
    assert (grid.steps, grid.pair.examples, grid.budgets) == (20, 16, 4)
    assert "budgets     4; the numbers here are for the largest one" in shown.render(grid)
    assert forecast.tokens_a_cell(made.pair) == pytest.approx(by_tokens.pair.tokens, rel=0.02)
    assert f"a cell      about {forecast.tokens_a_cell(made.pair):,} tokens in batches of 16, {made.steps} steps" in (
        shown.render(made)
    )


def test_a_machine_that_is_too_small_is_told_before_anything_starts(
    no_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "this", classmethod(lambda cls, *_: cls("a card", True, 10 * 2**30, 2**40)))
    config = CompareConfig(pair="gemma-2-2b", methods=("full",), tasks=("testbed",), judge="rules")
    (made,) = forecast.forecast(config)
    (told,) = [problem for problem in made.problems if problem.told.startswith("memory")]
    assert told.stops and "full needs about" in told.told and "a card has 10.0 GiB" in told.told
    auto, fixed = (
        made.pair.model_copy(update={"micro_batch_size": size, "gradient_checkpointing": switch})
        for size, switch in ((None, None), (16, False))
    )
    with pytest.raises(UserError, match="set --micro-batch-size auto and --gradient-checkpointing auto"):
        forecast.check_machine([SubRun(fixed, config=config, recipes=made.recipes)])
    with pytest.raises(
        UserError, match="lower --max-length, leave out method full, or use a machine with more"
    ) as error:
        forecast.check_machine([SubRun(auto, config=config, recipes=made.recipes)])
    assert "auto" not in str(error.value)


def test_each_member_of_a_panel_is_asked_and_of_a_cascade_perhaps_the_first_alone(testbed_pair: Pair) -> None:
    price = "price_in=1&price_out=2"
    for judge, least, most in ((f"rules,openai:m?{price}", 8, 8), (f"cascade:rules,openai:m?{price}", 4, 8)):
        pair, machine = testbed_pair.model_copy(update={"judge": judge}), Machine("none", False, 0, 0)
        made = forecast.Forecast(pair, (), 1, 1, 1, None, forecast.Prompts(2, 2), 1, machine)
        assert made.calls == (least, most)
        assert made.judge_cost(most) == pytest.approx(4 * (1200 + 2 * 100) / 1e6)  # of one of two judges


def test_compare_lists_all_that_is_missing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError) as error:
        prepare(
            CompareConfig(pair="gemma-2-2b", tasks=("testbed",), train=Path("nowhere.jsonl"), contrast_examples="all")
        )
    told = str(error.value).splitlines()
    for line, named in zip(told, ("gated", "OPENAI_API_KEY", "nowhere", "hh-rlhf"), strict=True):
        assert named in line


def test_saes_are_missed_where_a_method_reads_some(tmp_path: Path) -> None:
    (tmp_path / "bare.yaml").write_text("like: testbed\nsaes: []\n")
    asked = CompareConfig(pair=str(tmp_path / "bare.yaml"), methods=("lora", "lda", "sails-signed"))
    with pytest.raises(UserError, match=r"^method 'sails-signed' needs SAEs, but pair 'bare' has none; give --sae"):
        prepare(asked)
    assert prepare(asked.model_copy(update={"methods": ("lora", "lda")})).sub_runs


@pytest.mark.slow
def test_a_regulariser_wants_a_copy_of_base_weights_that_change(short: Pair) -> None:
    pair, shape = short.model_copy(update={"regularise": Regularise(kl=0.1)}), shape_of(short)
    costs = step_costs(shape, pair, [load_recipe(name) for name in ("lora", "corda")])
    assert costs["corda"].memory.weights - costs["lora"].memory.weights == 4 * costs["lora"].total
