"""Preference training: what TRL's trainer is given and does, against a loop written by hand."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, get_linear_schedule_with_warmup

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Dpo, Recipe, load_recipe
from sails_eval.core.training_settings import Optimiser
from sails_eval.data.reading import read_examples
from sails_eval.models.base import Base
from sails_eval.training import trainers
from sails_eval.training.batches import CellRun, TokenRow, encode_examples, examples_per_step, lay_out, tokens_of
from sails_eval.training.cell import train_cell, trainable


def row(prompt: int, chosen: int, rejected: int) -> TokenRow:
    """A row of so many tokens."""
    return TokenRow([1] * (prompt + chosen), [-100] * prompt + [1] * chosen, rejected_ids=[1] * rejected)


@pytest.fixture(scope="module")
def rows(testbed_pair: Pair, testbed_base: Base) -> list[TokenRow]:
    assert testbed_pair.train
    return encode_examples(testbed_base.tokenizer, read_examples(testbed_pair.train).examples, testbed_pair.max_length)


def test_both_answers_of_a_pair_count_behind_their_request() -> None:
    assert (tokens_of(row(5, 3, 2), "sft"), tokens_of(row(5, 3, 2), "dpo")) == (8, 8 + 7)
    assert tokens_of(row(5, 3, 0), "dpo") == 0


def test_a_step_reads_as_many_sequences_whatever_the_objective() -> None:
    pair = Pair(name="p", model="m", batch_size=6, tokens=400, examples=7)
    assert (examples_per_step(pair, "sft"), examples_per_step(pair, "dpo")) == (6, 3)
    mixed = [row(5, 3, 2 * (i % 3)) for i in range(30)]  # every third has no rejected answer
    order = lay_out(mixed, pair, seed=1, objective="dpo")
    assert len(order) % 3 == 0 and all(mixed[i].rejected_ids for i in order)
    assert sum(tokens_of(mixed[i], "dpo") for i in order[:-3]) < 400 <= sum(tokens_of(mixed[i], "dpo") for i in order)
    assert set(order) <= set(lay_out(mixed, pair, seed=1))  # of the same sample
    with pytest.raises(UserError, match="'batch_size' is 5, but objective dpo needs an even number"):
        examples_per_step(pair.model_copy(update={"batch_size": 5}), "dpo")


def test_preferences_want_rejected_answers() -> None:
    pair = Pair(name="p", model="m", batch_size=4, tokens=100)
    with pytest.raises(UserError, match=r"needs pairs .* have none for seed 0; give --train FILE with the fields"):
        lay_out([row(5, 3, 0)] * 9, pair, seed=0, objective="dpo")


@pytest.mark.parametrize(
    ("cuda", "asked", "used"),
    [(False, "adamw_torch", "adamw_torch"), (True, "adamw_torch", "adamw_torch_fused"), (True, "sgd", "sgd")],
)
def test_adamw_is_fused_on_a_gpu(cuda: bool, asked: str, used: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without that, a copy of all gradients: 5 GB of a model of 1.2 billion parameters."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    pair = Pair(name="p", model="m", dtype="bfloat16", optimiser=Optimiser(optim=asked))
    options = trainers._options(pair, CellRun(1e-3, 0, [0]), micro=2, batch=4, steps=1)
    assert (options["optim"], options["bf16"], options["gradient_checkpointing"]) == (used, cuda, False)


def told(model: Any, row: TokenRow, answer: list[int]) -> torch.Tensor:
    """The log-likelihood of an answer behind its request."""
    ids = row.input_ids[: row.prompt_length] + answer
    chances = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    chosen: torch.Tensor = chances[torch.arange(row.prompt_length - 1, len(ids) - 1), torch.tensor(answer)]
    return chosen.sum()


def preference(model: Any, row: TokenRow) -> torch.Tensor:
    return told(model, row, row.input_ids[row.prompt_length :]) - told(model, row, row.rejected_ids)


def by_hand(base: Base, pair: Pair, recipe: Recipe, rows: list[TokenRow], run: CellRun) -> list[float]:
    """The losses of Rafailov et al., equation 7, with the cross-entropy of chosen answers, step by step."""
    with trainable(base, pair, recipe, run) as model, torch.enable_grad():
        with torch.no_grad():
            before = [preference(model, row) for row in rows]
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        steps = len(rows) // 2
        optimiser = torch.optim.AdamW(weights, lr=run.learning_rate, weight_decay=0)
        schedule = get_linear_schedule_with_warmup(optimiser, math.ceil(0.1 * steps), steps)
        losses = []
        for at in range(0, len(rows), 2):
            gains = [preference(model, rows[i]) - before[i] for i in (at, at + 1)]
            chosen = [rows[i].input_ids[rows[i].prompt_length :] for i in (at, at + 1)]
            likelihood = sum(told(model, rows[at + i], chosen[i]) for i in (0, 1)) / sum(map(len, chosen))
            loss = -logsigmoid(0.1 * torch.stack(gains)).mean() - recipe.dpo.sft_weight * likelihood
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("method", "rate", "sft_weight"), [("dpo", 3e-3, 0.0), ("dpo-full", 3e-4, 0.5)])
def test_preference_training_is_that_of_the_paper_and_leaves_the_base_as_it_was(
    method: str,
    rate: float,
    sft_weight: float,
    rows: list[TokenRow],
    testbed_pair: Pair,
    testbed_base: Base,
    tmp_path: Path,
) -> None:
    recipe = load_recipe(method).model_copy(update={"dpo": Dpo(sft_weight=sft_weight)})
    pair = testbed_pair.model_copy(update={"tokens": 400})
    run = CellRun(rate, 0, lay_out(rows, pair, seed=0, objective="dpo"))
    weights = deepcopy(testbed_base.model.state_dict())
    record = train_cell(testbed_base, pair, recipe, rows=rows, run=run, folder=tmp_path)
    after = testbed_base.model.state_dict()
    assert after.keys() == weights.keys() and all(torch.equal(after[name], weights[name]) for name in weights)
    assert not any(parameter.requires_grad for parameter in testbed_base.model.parameters())
    assert record.steps > 3 and record.flops > 0 and record.tokens >= pair.tokens
    expected = by_hand(testbed_base, pair, recipe, [rows[i] for i in run.order], run)
    assert record.losses == pytest.approx(expected, abs=1e-4)
    if not sft_weight:
        assert record.losses[0] == pytest.approx(math.log(2), abs=1e-6)  # no preference yet
    stock: Any = AutoModelForCausalLM.from_pretrained(
        testbed_pair.model if method == "dpo" else tmp_path, attn_implementation="eager"
    )
    if method == "dpo":
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # nothing of the reference's
        stock = PeftModel.from_pretrained(stock, str(tmp_path))
    seen = [rows[i] for i in run.order[:4]]
    with torch.no_grad():
        moved = [preference(stock.eval(), row) - preference(testbed_base.model, row) for row in seen]
    assert torch.stack(moved).sum().item() > 0  # it prefers what was chosen more than before


def test_an_adapter_of_the_safety_subspace_learns_preferences_too() -> None:
    sails, dpo = load_recipe("dpo-sails"), load_recipe("dpo")
    assert (sails.init, sails.settings) == ("sails", load_recipe("sails").settings)
    assert (sails.objective, sails.dpo) == (dpo.objective, dpo.dpo) and sails.learning_rate == dpo.learning_rate
