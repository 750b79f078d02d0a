import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sails_eval.core.errors import CellFailed, UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe, Span, load_recipe
from sails_eval.data.dialogues import Example, Message
from sails_eval.data.reading import read_contrast, read_examples
from sails_eval.methods import Material
from sails_eval.methods.sails import SAILS
from sails_eval.methods.subspace.basis import LORA_NORM
from sails_eval.methods.subspace.contrast import encode_contrast
from sails_eval.models.base import Base, applied, load_base
from sails_eval.models.chat import encode_chat
from sails_eval.testbed.tokenizer import make_tokenizer
from sails_eval.training.batches import CellRun, TokenRow, encode_examples, lay_out, saved_at
from sails_eval.training.cell import check_target_modules, train_cell, trainable
from sails_eval.training.cost import TrainingCost

METHODS = ("sails", "lora", "full", "full-linear")
WEIGHTS = ("full", "full-linear")
RATES = {"sails": 3e-3, "lora": 3e-3, "full": 3e-4, "full-linear": 3e-4}


# --- the layout of the batches -----------------------------------------------------------------------------------


def a_pair(**settings: Any) -> Pair:
    return Pair(name="p", model="m", **{"batch_size": 4, "tokens": 500, "examples": 12} | settings)


ROWS = [TokenRow([1] * (5 + i % 7), [1] * (5 + i % 7)) for i in range(30)]  # of 5 to 11 tokens


def tokens_of(order: list[int]) -> int:
    return sum(len(ROWS[i].input_ids) for i in order)


@pytest.mark.parametrize("tokens", [1, 100, 321, 5000])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_layout_ends_with_the_first_whole_batch_at_the_budget(tokens: int, seed: int) -> None:
    order = lay_out(ROWS, a_pair(tokens=tokens), seed=seed)
    assert len(order) % 4 == 0
    assert tokens_of(order[:-4]) < tokens <= tokens_of(order)


def test_checkpoints_are_equally_far_apart_and_end_with_the_last_step() -> None:
    assert [saved_at(10, n) for n in (1, 2, 4, 10)] == [[10], [5, 10], [3, 5, 8, 10], list(range(1, 11))]


def test_a_budget_that_a_batch_meets_exactly_needs_no_other() -> None:
    order = lay_out(ROWS, a_pair(tokens=300), seed=0)
    assert lay_out(ROWS, a_pair(tokens=tokens_of(order)), seed=0) == order


@pytest.mark.parametrize("examples", [3, 12, None])
def test_a_layout_of_so_many_steps_ends_there_whatever_the_tokens(examples: int | None) -> None:
    assert all(len(lay_out(ROWS, a_pair(tokens=n, steps=6, examples=examples), seed=0)) == 24 for n in (1, 10**6))
    longer = lay_out(ROWS, a_pair(tokens=10**6, examples=examples), seed=0)
    assert lay_out(ROWS, a_pair(steps=6, examples=examples), seed=0) == longer[:24]


def test_a_layout_depends_on_the_seed() -> None:
    pair = a_pair()
    assert lay_out(ROWS, pair, seed=0) == lay_out(ROWS, pair, seed=0)
    orders = [lay_out(ROWS, pair, seed=seed) for seed in range(5)]
    assert len({tuple(order[:12]) for order in orders}) == 5
    assert len({frozenset(order) for order in orders}) == 5  # a sample of its own, not only an order


@pytest.mark.parametrize(("examples", "sample"), [(12, 12), (7, 7), (None, 30), (99, 30)])
def test_every_pass_covers_the_sample_in_a_new_order(examples: int | None, sample: int) -> None:
    order = lay_out(ROWS, a_pair(tokens=2000, examples=examples), seed=3)
    passes = [order[i : i + sample] for i in range(0, len(order) - sample + 1, sample)]
    assert len(passes) >= 5
    for one in passes:
        assert len(set(one)) == sample and set(one) == set(passes[0])
    assert len({tuple(one) for one in passes}) == len(passes)


# --- tokenised examples ------------------------------------------------------------------------------------------

ASK, TELL, REFUSE = "how do i boil rice ?", "sure , use the ladle .", "i cannot help with that ."


def example(request: str = ASK, response: str = TELL, rejected: str | None = None) -> Example:
    return Example((Message("user", request),), response, rejected)


def words(tokenizer: Any, ids: list[int]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


def test_the_loss_looks_at_the_answer_and_its_end_of_turn_only() -> None:
    tokenizer = make_tokenizer()
    (row,) = encode_examples(tokenizer, [example()], 100)
    request = f"<bos> <start_of_turn> user {ASK} <end_of_turn> <start_of_turn> model"
    assert words(tokenizer, row.input_ids) == f"{request} {TELL} <end_of_turn>"
    n = len(request.split())
    assert row.labels == [-100] * n + row.input_ids[n:]


def test_earlier_turns_of_the_model_are_part_of_the_request() -> None:
    tokenizer = make_tokenizer()
    turns = (Message("user", ASK), Message("assistant", TELL), Message("user", "tell me how to fry rice ."))
    (row,) = encode_examples(tokenizer, [Example(turns, REFUSE)], 100)
    learnt = [token for token, label in zip(row.input_ids, row.labels, strict=True) if label != -100]
    assert words(tokenizer, learnt) == f"{REFUSE} <end_of_turn>"
    assert words(tokenizer, row.input_ids).count("<start_of_turn> model") == 2


def test_long_examples_are_cut_and_those_that_are_all_request_left_out() -> None:
    tokenizer = make_tokenizer()
    (whole,) = encode_examples(tokenizer, [example()], 100)
    start = whole.labels.count(-100)
    for length in range(start + 1, len(whole.input_ids) + 1):
        assert encode_examples(tokenizer, [example()], length) == [
            TokenRow(whole.input_ids[:length], whole.labels[:length])
        ]
    assert encode_examples(tokenizer, [example()], start) == []


def test_a_template_that_writes_an_answered_request_differently_is_an_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ messages | length }} {{ m['content'] }} {% endfor %}"
    with pytest.raises(UserError, match="chat template changes the request"):
        encode_examples(tokenizer, [example()], 100)


def test_a_dialogue_that_the_template_refuses_is_an_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0]['content'] == 'begone' %}{{ raise_exception('Such words are not supported') }}{% endif %}"
        + tokenizer.chat_template
    )
    turns = (Message("user", "begone"),)
    with pytest.raises(UserError, match="Such words are not supported"):
        encode_examples(tokenizer, [Example(turns, TELL)], 100)


# --- trained cells -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Bench:
    """The testbed's base model, a small budget, and what its cells are trained on."""

    base: Base
    pair: Pair
    rows: list[TokenRow]
    state: dict[str, torch.Tensor]
    probe: torch.Tensor

    def run(self, method: str, *, seed: int = 0, pair: Pair | None = None) -> CellRun:
        order = lay_out(self.rows, pair or self.pair, seed=seed)
        return CellRun(RATES[method], seed, order, self.state if method == "sails" else None)

    def train(self, method: str, folder: Path, *, pair: Pair | None = None) -> TrainingCost:
        run = self.run(method, pair=pair)
        return train_cell(self.base, pair or self.pair, load_recipe(method), rows=self.rows, run=run, folder=folder)

    @torch.no_grad()
    def logits(self, model: Any = None) -> torch.Tensor:
        logits: torch.Tensor = (model or self.base.model)(self.probe).logits.clone()
        return logits


@pytest.fixture(scope="module")
def bench(testbed_pair: Pair, testbed_base: Base, testbed_saes: dict[int, Any]) -> Bench:
    pair, tokenizer = testbed_pair, testbed_base.tokenizer
    assert pair.train and pair.contrast
    rows = encode_examples(tokenizer, read_examples(pair.train).examples, pair.max_length)
    contrast = encode_contrast(tokenizer, read_contrast(pair.contrast).examples[:8], pair.max_length)
    state, _ = SAILS(SAILS.Settings(k=8)).prepare(Material(testbed_base.model, saes=testbed_saes, contrast=contrast))
    probe = torch.tensor([encode_chat(tokenizer, [{"role": "user", "content": ASK}])])
    return Bench(testbed_base, pair, rows, dict(state), probe)


@dataclasses.dataclass(frozen=True)
class Trained:
    """One training run of a few steps, and the base model's logits around it."""

    record: TrainingCost
    folder: Path
    before: torch.Tensor
    after: torch.Tensor


@pytest.fixture(scope="module")
def trained(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Every method, one after another on the same base model."""
    runs = {}
    for method in METHODS:
        folder, before = tmp_path_factory.mktemp(method), bench.logits()
        record = bench.train(method, folder)
        runs[method] = Trained(record, folder, before, bench.logits())
    return runs


def assert_untouched(model: Any) -> None:
    """Nothing of an adapter or a trainer is left on the model."""
    assert not [name for name, _ in model.named_modules() if "lora" in name]
    assert not [name for name, module in model.named_modules() if "forward" in vars(module)]
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_training_leaves_the_base_model_as_it_was(bench: Bench, trained: dict[str, Trained], method: str) -> None:
    assert torch.equal(trained[method].before, trained[method].after)
    assert_untouched(bench.base.model)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_training_leaves_the_base_model_ready_to_answer(bench: Bench, method: str, tmp_path: Path) -> None:
    alone = dataclasses.replace(bench, base=load_base(bench.pair))
    alone.train(method, tmp_path, pair=bench.pair.model_copy(update={"tokens": 1}))
    assert not any(module.training for module in alone.base.model.modules())  # else it would answer with dropout
    assert alone.base.model.config.use_cache


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_loads_with_the_stock_libraries_and_answers_the_same(
    bench: Bench, trained: dict[str, Trained], method: str
) -> None:
    def stock(folder: Path | str) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()

    checkpoint = trained[method].folder
    model = (
        stock(checkpoint)
        if method in WEIGHTS
        else PeftModel.from_pretrained(stock(bench.pair.model), str(checkpoint)).eval()
    )
    with applied(bench.base, checkpoint) as ours:
        assert torch.equal(bench.logits(ours), bench.logits(model))
    assert not torch.allclose(bench.logits(model), bench.logits(), atol=1e-3)  # it learnt something
    assert torch.equal(bench.logits(), trained[method].before)
    assert_untouched(bench.base.model)
    assert list(checkpoint.glob("*.safetensors")) and not list(checkpoint.glob("*.bin"))


def test_budgets_are_equal_and_right(bench: Bench, trained: dict[str, Trained]) -> None:
    order = lay_out(bench.rows, bench.pair, seed=0)
    for method in METHODS:
        record = trained[method].record
        assert record.tokens == sum(len(bench.rows[i].input_ids) for i in order)
        assert record.steps == len(record.losses) == len(order) // 4
        assert record.examples == len(order) and record.unique_examples == len(set(order))
        assert record.seconds > 0 and record.peak_memory_bytes > 0


def test_parameters_are_counted(bench: Bench, trained: dict[str, Trained]) -> None:
    total = bench.base.model.num_parameters()
    assert {run.record.total_params for run in trained.values()} == {total}
    assert trained["full"].record.trainable_params == total
    config = bench.base.model.config
    width, inner = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    sides = [(width, inner), (width, keys), (width, keys), (inner, width)]  # q, k, v, o
    expected = config.num_hidden_layers * bench.pair.rank * sum(map(sum, sides))
    assert trained["full-linear"].record.trainable_params == config.num_hidden_layers * sum(a * b for a, b in sides)
    assert trained["lora"].record.trainable_params == trained["sails"].record.trainable_params == expected


def test_flops_are_those_of_all_steps(bench: Bench, tmp_path: Path) -> None:
    alike = [row for row in bench.rows if len(row.input_ids) == 22]  # then every step costs the same
    short = dataclasses.replace(bench, rows=alike)
    one, three = (
        short.train("full", tmp_path / str(steps), pair=bench.pair.model_copy(update={"tokens": 22 * 4 * steps}))
        for steps in (1, 3)
    )
    assert (one.steps, three.steps) == (1, 3)
    assert three.flops == 3 * one.flops
    # Six for each weight and token, forward and backward; attention scores come on top, and the embedding has two jobs.
    assert one.flops / (6 * one.total_params * one.tokens) == pytest.approx(1, abs=0.25)


def test_flops_grow_with_the_padding_of_later_steps(bench: Bench, tmp_path: Path) -> None:
    rows = [TokenRow([2] + [10] * (n - 1), [10] * n) for n in (5, 20)]
    run = CellRun(1e-3, 0, [0] * 4 + [1] * 4)
    counted = train_cell(bench.base, bench.pair, load_recipe("lora"), rows=rows, run=run, folder=tmp_path)
    alone = dataclasses.replace(run, order=[0] * 4)
    first = train_cell(bench.base, bench.pair, load_recipe("lora"), rows=rows, run=alone, folder=tmp_path)
    assert counted.flops == 5 * first.flops  # 4 × 5 padded tokens, then 4 × 20


def test_adapters_cost_less_than_all_weights(trained: dict[str, Trained]) -> None:
    assert 0 < trained["sails"].record.flops == trained["lora"].record.flops < trained["full"].record.flops


@pytest.mark.parametrize("method", METHODS)
def test_training_again_gives_the_same_bytes(
    bench: Bench, trained: dict[str, Trained], method: str, tmp_path: Path
) -> None:
    record = bench.train(method, tmp_path)
    assert record.losses == trained[method].record.losses
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (trained[method].folder / path.name).read_bytes()
    if (config := tmp_path / "adapter_config.json").exists():  # in another process, too, where sets have another order
        told = json.loads(config.read_text())["target_modules"]
        assert told == sorted(told)


@torch.no_grad()
def loss_of(model: Any, rows: list[TokenRow]) -> float:
    """Mean cross-entropy over the answers' tokens of a batch, each row by itself."""
    total, n = 0.0, 0
    for row in rows:
        chances = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        for at, label in enumerate(row.labels):
            if label != -100:
                total, n = total - chances[at - 1, label].item(), n + 1
    return total / n


@pytest.mark.parametrize("method", METHODS)
def test_the_first_loss_is_the_base_models_cross_entropy_on_the_answers(
    bench: Bench, trained: dict[str, Trained], method: str
) -> None:
    first = [bench.rows[i] for i in lay_out(bench.rows, bench.pair, seed=0)[:4]]
    assert trained[method].record.losses[0] == pytest.approx(loss_of(bench.base.model, first), abs=1e-4)
    assert len(set(trained[method].record.losses)) == len(trained[method].record.losses)


def test_batches_in_parts_learn_the_same(bench: Bench, trained: dict[str, Trained], tmp_path: Path) -> None:
    record = bench.train("lora", tmp_path, pair=bench.pair.model_copy(update={"micro_batch_size": 2}))
    whole = trained["lora"].record
    assert record.losses == pytest.approx(whole.losses, abs=1e-4)
    assert (record.tokens, record.steps) == (whole.tokens, whole.steps)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_gradient_checkpointing_learns_the_same_and_leaves_nothing_behind(
    bench: Bench, trained: dict[str, Trained], method: str, tmp_path: Path
) -> None:
    alone = dataclasses.replace(bench, base=load_base(bench.pair))
    record = alone.train(method, tmp_path, pair=bench.pair.model_copy(update={"gradient_checkpointing": True}))
    assert record.losses == pytest.approx(trained[method].record.losses, abs=1e-4)
    assert not alone.base.model.is_gradient_checkpointing
    assert not alone.base.model(alone.probe).logits.requires_grad


@contextmanager
def at_step_0(bench: Bench, method: str, seed: int = 0) -> Iterator[Any]:
    with trainable(bench.base, bench.pair, load_recipe(method), bench.run(method, seed=seed)) as model:
        yield model


@pytest.mark.parametrize("method", METHODS)
def test_no_method_changes_a_logit_before_its_first_step(bench: Bench, method: str) -> None:
    before = bench.logits()
    with at_step_0(bench, method) as model:
        assert torch.equal(bench.logits(model.eval()), before)
        trained_names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert trained_names and all(("lora_" in name) == (method not in WEIGHTS) for name in trained_names)


def test_sails_starts_from_its_subspace_and_lora_does_not(bench: Bench) -> None:
    name = "base_model.model.model.layers.1.self_attn.o_proj.lora_B.default.weight"
    with at_step_0(bench, "sails") as model:
        basis = bench.state["layers.1"][:, : bench.pair.rank]
        assert torch.equal(model.get_parameter(name)[:, : basis.shape[1]], LORA_NORM * basis)
    with at_step_0(bench, "lora") as model:
        assert not model.get_parameter(name).any()


def test_the_target_modules_in_full_are_all_that_full_linear_changes(bench: Bench, trained: dict[str, Trained]) -> None:
    before = dict(bench.base.model.named_parameters())
    after = AutoModelForCausalLM.from_pretrained(trained["full-linear"].folder).named_parameters()
    changed = {name for name, weight in after if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.split(".")[-2] in bench.pair.target_modules}


def test_a_frozen_basis_is_the_same_after_training(bench: Bench, tmp_path: Path) -> None:
    recipe = load_recipe("sails").model_copy(update={"settings": {"basis": "frozen"}})
    run = bench.run("sails")
    with trainable(bench.base, bench.pair, recipe, run) as model:
        start = {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_" in name}
    record = train_cell(bench.base, bench.pair, recipe, rows=bench.rows, run=run, folder=tmp_path)
    assert record.trainable_params < sum(weight.numel() for weight in start.values())
    saved = load_file(tmp_path / "adapter_model.safetensors")
    kept = {name for name, weight in start.items() if torch.equal(saved[name.replace(".default", "")], weight)}
    assert {name for name in start if "o_proj.lora_B" in name} <= kept
    assert not any("o_proj.lora_A" in name for name in kept)


def test_adapters_start_at_random_by_their_seed(bench: Bench) -> None:
    def start(method: str, seed: int) -> torch.Tensor:
        with at_step_0(bench, method, seed) as model:
            name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight"
            weight: torch.Tensor = model.get_parameter(name)
            return weight.detach().clone()

    assert torch.equal(start("lora", 1), start("lora", 1))
    assert not torch.equal(start("lora", 1), start("lora", 2))
    assert torch.equal(start("lora", 1), start("sails", 1))  # no SAE is read there, so it starts as LoRA does


@pytest.mark.parametrize("method", METHODS)
def test_an_error_while_training_leaves_the_base_model_as_it_was(bench: Bench, method: str) -> None:
    before = bench.logits()
    with pytest.raises(ZeroDivisionError), at_step_0(bench, method) as model:
        for parameter in model.parameters():
            parameter.data += 0.1 if parameter.requires_grad else 0
        math.sqrt(1 / 0)
    assert torch.equal(bench.logits(), before)
    assert_untouched(bench.base.model)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("lora", "seed 0: the loss is nan at step 3 of 3"),
        pytest.param("full", r"seed 0, step 3 of 3: weight model\.\S+ is not finite any more", marks=pytest.mark.slow),
    ],
)
def test_what_is_not_finite_is_a_failed_cell_and_the_next_one_starts_as_ever(
    bench: Bench, method: str, told: str, tmp_path: Path
) -> None:
    before, run = bench.logits(), dataclasses.replace(bench.run(method), learning_rate=1e30)
    with pytest.raises(CellFailed, match=rf"^{method} 1e\+30 {told}; lower the learning rate$"):
        train_cell(bench.base, bench.pair, load_recipe(method), rows=bench.rows, run=run, folder=tmp_path / "cell")
    assert not (tmp_path / "cell").exists() and torch.equal(bench.logits(), before)
    assert_untouched(bench.base.model)


def test_a_failed_initialisation_leaves_the_base_model_as_it_was(bench: Bench) -> None:
    base, run = load_base(bench.pair), dataclasses.replace(bench.run("sails"), state={})
    with (
        pytest.raises(UserError, match="no module was initialised"),
        trainable(base, bench.pair, load_recipe("sails"), run),
    ):
        pass
    assert_untouched(base.model)


def test_recipes_can_set_what_the_budget_leaves_open(bench: Bench) -> None:
    span = Span(low=1e-4, high=1e-2)
    recipe = Recipe(name="r", description="", parameters="adapter", peft={"use_rslora": True}, learning_rate=span)
    with trainable(bench.base, bench.pair, recipe, bench.run("lora")) as model:
        config = model.peft_config["default"]
        assert (config.use_rslora, config.r, config.lora_alpha) == (True, bench.pair.rank, bench.pair.alpha)
        assert config.target_modules == set(bench.pair.target_modules)


@pytest.mark.parametrize("peft", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}])
def test_a_recipe_that_changes_base_weights_leaves_them_as_they_were(bench: Bench, peft: dict[str, Any]) -> None:
    span = Span(low=1e-4, high=1e-2)
    recipe = Recipe(name="r", description="", parameters="adapter", peft=peft, learning_rate=span)
    base = load_base(bench.pair)
    with trainable(base, bench.pair, recipe, bench.run("lora")):
        pass
    assert torch.equal(bench.logits(base.model), bench.logits())


def test_a_target_module_that_the_model_lacks_is_an_error(bench: Bench) -> None:
    check_target_modules(bench.base.model, bench.pair)
    pair = bench.pair.model_copy(update={"target_modules": ("q_proj", "o_porj")})
    with pytest.raises(UserError, match="unknown target module 'o_porj'; did you mean o_proj"):
        check_target_modules(bench.base.model, pair)
