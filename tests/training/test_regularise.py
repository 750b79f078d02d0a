"""KL to the base model, added to the loss of every method: against a loop written by hand."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.schema import validate
from sails_eval.core.training_settings import Optimiser, Regularise, parse_regularise
from sails_eval.data.reading import read_examples
from sails_eval.models.base import Base
from sails_eval.plan.identity import training_identity
from sails_eval.plan.resolve import resolve_pair
from sails_eval.training import trainers
from sails_eval.training.batches import CellRun, TokenRow, encode_examples, lay_out
from sails_eval.training.cell import train_cell, trainable
from sails_eval.training.optimiser import check_optimiser
from sails_eval.training.regularise import KlPenalty
from sails_eval.training.trainers import lora_plus

LAMBDA = 0.7


@pytest.fixture(scope="module")
def rows(testbed_pair: Pair, testbed_base: Base) -> list[TokenRow]:
    assert testbed_pair.train
    return encode_examples(testbed_base.tokenizer, read_examples(testbed_pair.train).examples, testbed_pair.max_length)


def answered(model: Any, row: TokenRow, answer: list[int]) -> torch.Tensor:
    """The log-probabilities of all tokens at the places of an answer: [answer, vocabulary]."""
    ids = row.input_ids[: row.prompt_length] + answer
    said: torch.Tensor = model(torch.tensor([ids])).logits[0, row.prompt_length - 1 : -1].log_softmax(-1)
    return said


def by_hand(base: Base, pair: Pair, method: str, rows: list[TokenRow], run: CellRun, size: int) -> list[float]:
    """The loss of every step: cross-entropy or DPO's, and λ times the mean over answer tokens of KL(base ‖ model)."""
    recipe = load_recipe(method)
    answers = [[row.input_ids[row.prompt_length :], row.rejected_ids] for row in rows]
    read = 2 if recipe.objective == "dpo" else 1
    with torch.no_grad():
        before = [
            [answered(base.model, row, answer) for answer in told[:read]]
            for row, told in zip(rows, answers, strict=True)
        ]
    with trainable(base, pair, recipe, run) as model, torch.enable_grad():
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        steps = len(rows) // size
        optimiser = torch.optim.AdamW(weights, lr=run.learning_rate, weight_decay=pair.optimiser.weight_decay)
        schedule = get_linear_schedule_with_warmup(optimiser, math.ceil(0.1 * steps), steps)
        losses = []
        for at in range(0, len(rows), size):
            own, divergence, n = [], torch.tensor(0.0), 0
            for i in range(at, at + size):
                likelihoods = []
                for answer, old in zip(answers[i][:read], before[i], strict=True):
                    new, places = answered(model, rows[i], answer), torch.arange(len(answer))
                    divergence = divergence + (old.exp() * (old - new)).sum()
                    n += len(answer)
                    told = (new if read == 1 else new - old)[places, torch.tensor(answer)].sum()
                    likelihoods.append(told)
                own.append(likelihoods)
            if read == 1:
                loss = -sum(told[0] for told in own) / n
            else:
                gains = torch.stack([chosen - rejected for chosen, rejected in own])
                loss = -torch.nn.functional.logsigmoid(recipe.dpo.beta * gains).mean()
            loss = loss + LAMBDA * divergence / n
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no type for it
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            losses.append(loss.item())
    return losses


@pytest.mark.parametrize(
    ("method", "rate", "micro"),
    [("lora", 3e-2, None), ("full", 1e-3, 2), pytest.param("dpo", 3e-2, None, marks=pytest.mark.slow)],
)
def test_the_loss_is_that_of_a_loop_by_hand(
    method: str,
    rate: float,
    micro: int | None,
    rows: list[TokenRow],
    testbed_pair: Pair,
    testbed_base: Base,
    tmp_path: Path,
) -> None:
    changes = {"tokens": 300, "micro_batch_size": micro, "regularise": Regularise(kl=LAMBDA)}
    pair, recipe = testbed_pair.model_copy(update=changes), load_recipe(method)
    run = CellRun(rate, 0, lay_out(rows, pair, seed=0, objective=recipe.objective))
    seen, size = [rows[i] for i in run.order], 4 if recipe.objective == "sft" else 2
    record = train_cell(testbed_base, pair, recipe, rows=rows, run=run, folder=tmp_path / "with")
    assert record.losses == pytest.approx(by_hand(testbed_base, pair, method, seen, run, size), abs=1e-4)
    if method == "lora":
        free = pair.model_copy(update={"regularise": None})
        without = train_cell(testbed_base, free, recipe, rows=rows, run=run, folder=tmp_path / "without")
        assert record.losses[0] == pytest.approx(without.losses[0], abs=1e-5)  # at step 0 it is the base model
        assert record.losses[-1] > without.losses[-1] + 0.005
        assert record.flops > 1.5 * without.flops


def test_what_an_initialisation_froze_stays_frozen(testbed_pair: Pair, testbed_base: Base) -> None:
    pair = testbed_pair.model_copy(update={"regularise": Regularise(kl=LAMBDA)})
    with trainable(testbed_base, pair, load_recipe("lora"), CellRun(1e-3, 0, [])) as model:
        frozen = [weight for name, weight in model.named_parameters() if "lora_A" in name]
        for weight in frozen:
            weight.requires_grad_(False)
        ids = torch.tensor([[1, 2, 3, 4]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        penalty = KlPenalty.of(model, pair, load_recipe("lora"))
        assert penalty.frozen is None  # the adapter's own base is at hand
        assert penalty(model, inputs, ids > 2).item() == pytest.approx(0, abs=1e-6)
        assert not any(weight.requires_grad for weight in frozen)
        assert any(weight.requires_grad for weight in model.parameters())


def test_regularisation_belongs_to_the_run_and_to_no_recipe() -> None:
    asked = validate(CompareConfig, {"pair": "testbed", "regularise": "kl=0.1"}, where="here")
    assert resolve_pair(asked).regularise == Regularise(kl=0.1)
    again = validate(CompareConfig, asked.model_dump(mode="json", exclude_none=True), where="config.yaml")
    assert again.regularise == asked.regularise
    no_lambda = "must be above 0; to train without it, leave it out here and in the pair's key 'regularise'"
    for text, told in (
        ("kl=0", no_lambda),
        ("kl=inf", "input should be a finite number"),
        ("l2=1", "unknown regulariser 'l2'"),
    ):
        with pytest.raises(UserError, match=told):
            validate(CompareConfig, {"regularise": text}, where="here")
    with pytest.raises(UserError, match="expected NAME=VALUE"):
        parse_regularise("0.1")


def test_only_what_is_set_is_part_of_a_trainings_identity() -> None:
    recipes = (load_recipe("lora"),)
    plain = resolve_pair(CompareConfig(pair="testbed"))
    identity = training_identity(plain, recipes)
    assert not {"optimiser", "regularise"} & identity.keys()
    changed = plain.model_copy(update={"optimiser": Optimiser(weight_decay=0.1), "regularise": Regularise(kl=0.1)})
    told = training_identity(changed, recipes)
    assert told["optimiser"]["weight_decay"] == 0.1 and told["regularise"] == {"kl": 0.1}
    assert {key: told[key] for key in identity} == identity


def test_the_pairs_optimiser_is_what_trains(testbed_pair: Pair) -> None:
    pair = testbed_pair.model_copy(update={"optimiser": Optimiser(weight_decay=0.1, lr_scheduler_type="constant")})
    told = trainers._options(pair, CellRun(1e-2, 0, []), micro=4, batch=4, steps=3)
    assert (told["weight_decay"], told["lr_scheduler_type"], told["max_grad_norm"]) == (0.1, "constant", 1.0)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"optim": "adamw"}, "optim in 'optimiser' of pair 'testbed': 'adamw'; did you mean "),
        ({"optim": "adamw_bnb_8bit"}, "pair 'testbed': key 'optimiser': .*bitsandbytes"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "pair 'testbed': key 'optimiser': .*min_lr"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "pair 'testbed': key 'optimiser': .*eval"),
    ],
)
def test_an_optimiser_that_cannot_be_made_is_an_error(testbed_pair: Pair, given: dict[str, Any], told: str) -> None:
    check_optimiser(testbed_pair)
    with pytest.raises(UserError, match=told):
        check_optimiser(testbed_pair.model_copy(update={"optimiser": Optimiser(**given)}))


def test_lora_plus_decays_weights_as_all_others_do(testbed_pair: Pair, testbed_base: Base) -> None:
    with trainable(testbed_base, testbed_pair, load_recipe("lora-plus"), CellRun(1e-3, 0, list(range(8)))) as model:
        asked: Any = SimpleNamespace(
            model=model,
            args=SimpleNamespace(weight_decay=0.3),
            get_optimizer_cls_and_kwargs=lambda *arguments: (torch.optim.AdamW, {"lr": 1e-3}),
        )
        groups = [group for group in lora_plus(asked, 4).param_groups if group["params"]]
    assert {group["weight_decay"] for group in groups} == {0.3} and {group["lr"] for group in groups} == {1e-3, 4e-3}


def test_the_base_answers_without_dropout_and_training_goes_on_with_it(testbed_pair: Pair, testbed_base: Base) -> None:
    with trainable(testbed_base, testbed_pair, load_recipe("lora"), CellRun(1e-3, 0, list(range(8)))) as model:
        model.train()
        with KlPenalty(1.0)._base(model) as base:
            assert not any(module.training for module in base.modules())
        assert all(module.training for module in model.modules())
