"""Budgets in FLOPs and seconds, and adapters that train as much as LoRA does."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from torch.utils._python_dispatch import _get_current_dispatch_mode

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.training_settings import Regularise
from sails_eval.methods.activation_svd import ActivationSVD
from sails_eval.methods.subspace.layers import basis_layers
from sails_eval.models.base import Base
from sails_eval.plan.budget import Cost, Rank, Took, share_out
from sails_eval.plan.checks import check_training
from sails_eval.plan.cost import method_cost
from sails_eval.plan.cost.meta_model import shape_of
from sails_eval.plan.cost.method_cost import (
    flops_costs,
    matched_ranks,
    nearest_rank,
    sae_training_flops,
    seconds_costs,
)
from sails_eval.plan.identity import Identity
from sails_eval.plan.plan import Plan, SubRun
from sails_eval.plan.prepare import prepare
from sails_eval.run import stages
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.records import Description, TrainRecord
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.match_budgets import matched, misjudged, read_pace, with_costs, with_ranks, write_pace
from sails_eval.run.report.ledger import ledger
from sails_eval.run.stages import StartJob, find_subspace
from sails_eval.training import batches
from sails_eval.training.batches import CellRun, lay_out
from sails_eval.training.cell import train_cell

COSTS_OF = {"lora": Cost(2.0), "full": Cost(3.0), "prepared": Cost(2.0, 500.0, 400.0)}


# --- sharing out -------------------------------------------------------------------------------------------------


def test_the_cheapest_gets_all_tokens_and_nobody_more() -> None:
    tokens = share_out(COSTS_OF, 1000, "flops")
    assert tokens == {"lora": 1000, "full": 667, "prepared": 750}
    spent = [COSTS_OF[name].of(n) for name, n in tokens.items()]
    assert max(spent) - min(spent) <= 3  # a token
    late = {"lora": Cost(2.0), "quick": Cost(1.0, 900.0)}  # which is cheaper depends on the budget
    assert share_out(late, 1000, "seconds") == {"lora": 950, "quick": 1000}


def test_a_preparation_beyond_the_budget_is_an_error_that_says_what_would_be_enough() -> None:
    with pytest.raises(UserError, match=r"preparation of 'prepared' alone takes 5e\+02 flops \(4e\+02 of") as error:
        share_out(COSTS_OF, 200, "flops")
    enough = int(str(error.value).split("--tokens ")[1].split()[0])
    assert 200 < enough <= 300 and share_out(COSTS_OF, enough, "flops")["prepared"] >= 1


@pytest.mark.parametrize(
    ("count", "target", "rank"),
    [
        (lambda r: 10 * r, 80, 8),
        (lambda r: 5 * r, 80, 16),
        (lambda r: 10 * r, 84, 8),
        (lambda r: 10 * r, 86, 9),
        (lambda r: 10 * r, 85, 8),  # as near: the lower
        (lambda r: 100 + r, 80, 1),
        (lambda r: 30 + r // 2, 1000, 1940),
    ],
)
def test_the_nearest_rank(count: Callable[[int], int], target: int, rank: int) -> None:
    assert nearest_rank(count, target) == rank


# --- what methods cost -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(testbed_pair: Pair) -> Pair:
    return testbed_pair.model_copy(update={"batch_size": 8, "tokens": 400})


@pytest.mark.slow
def test_flops_are_foretold_as_they_are_counted(pair: Pair, testbed_base: Base, tmp_path: Path) -> None:
    recipes = [load_recipe(name) for name in ("full", "sails")]
    found = flops_costs(pair, recipes)
    rows = batches.training_rows(pair)
    run = CellRun(1e-3, 0, lay_out(rows, pair, seed=0))
    record = train_cell(testbed_base, pair, recipes[0], rows=rows, run=run, folder=tmp_path / "full")
    assert found["full"].of(record.tokens) == pytest.approx(record.flops, rel=0.05)
    stages.find_subspace(stages.StartJob(pair, recipes[1], (0,), RunFolder(tmp_path)))
    counted = json.loads((tmp_path / "subspace" / "sails" / "seed-0.json").read_text())["cost"]["flops"]
    assert RunFolder(tmp_path).subspace_report("sails", 0).cost.flops == counted
    sails = found["sails"]
    assert sails.before - sails.saes == pytest.approx(counted, rel=0.02)
    assert sails.per_token < found["full"].per_token and found["full"].before == 0


@pytest.mark.slow
def test_the_base_models_pass_is_foretold_without_an_adapter(pair: Pair, testbed_base: Base, tmp_path: Path) -> None:
    pair, recipe = pair.model_copy(update={"regularise": Regularise(kl=0.1)}), load_recipe("vera")
    rows = batches.training_rows(pair)
    run = CellRun(1e-3, 0, lay_out(rows, pair, seed=0))
    record = train_cell(testbed_base, pair, recipe, rows=rows, run=run, folder=tmp_path / "vera")
    assert flops_costs(pair, [recipe])["vera"].of(record.tokens) == pytest.approx(record.flops, rel=0.05)


@pytest.mark.slow
def test_the_seconds_of_a_preparation_are_taken_without_counting(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    modes, prepare = list[Any](), ActivationSVD.prepare

    def noting(*given: Any) -> Any:
        modes.append(_get_current_dispatch_mode())
        return prepare(*given)

    monkeypatch.setattr(ActivationSVD, "prepare", noting)
    sub_run = SubRun(pair, (), Identity(), recipes=(load_recipe("activation-svd"),), seeds=(0,), learning_rates=1)
    assert seconds_costs(sub_run)["activation-svd"].before > 0 and modes == [None]


def test_only_saes_of_ones_own_are_charged() -> None:
    pair = load_pair("testbed")
    shape = shape_of(pair)
    charged = sae_training_flops(pair.saes, pair, shape)
    matrices = 6 * 2 * 128 * 512 * 614_400 * 4
    assert matrices < charged < 2 * matrices  # and one walk of the model over as many tokens
    given = [sae.model_copy(update={"self_trained": False}) for sae in pair.saes]
    assert sae_training_flops(given, pair, shape) == 0
    assert basis_layers(pair.sae_sources("one"), 4) == [1]
    gemma = load_pair("gemma-2-2b")
    assert basis_layers(gemma.saes, 26) == [5, 10, 15, 20] and basis_layers((), 3) == [0, 1, 2]


def test_adapters_train_as_much_as_lora(pair: Pair) -> None:
    sails = load_recipe("sails")
    frozen = sails.model_copy(update={"name": "frozen", "settings": {"basis": "frozen"}})
    ranks = matched_ranks(pair, [*(load_recipe(name) for name in ("lora", "full", "lora-2r")), frozen])
    lora = ranks["lora"]
    assert lora == Rank(pair.rank, lora.trained) and "full" not in ranks
    overridden = f"--match-params sets its rank to {pair.rank}, while its recipe has {2 * pair.rank}"
    assert ranks["lora-2r"] == Rank(pair.rank, lora.trained, overridden)  # the board has LoRA twice, and says so
    assert ranks["frozen"].rank > pair.rank
    assert (
        abs(ranks["frozen"].trained / lora.trained - 1) < 0.1
    )  # half of what an adapter has, at nearly twice the rank


def test_a_recipe_whose_parameters_do_not_depend_on_the_rank_keeps_it(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: dict[str, Callable[[int], int]] = {"lora": lambda rank: 100 * rank, "scales": lambda rank: 7}
    monkeypatch.setattr(method_cost, "to_train", lambda shape, pair, r: counts[r.name](r.rank(pair)))
    monkeypatch.setattr(method_cost, "trained_and_all", lambda trained: (trained, 0))
    scales = load_recipe("lora").model_copy(update={"name": "scales", "rank_factor": 2.0})
    found = matched_ranks(pair, [scales])["scales"]
    assert found.rank == 2 * pair.rank
    told = "it trains 7 parameters at any rank, and LoRA 400"
    assert found.note == f"--match-params does not change its rank, since {told}"


# --- in a comparison ---------------------------------------------------------------------------------------------


def sub_run_of(**changes: Any) -> SubRun:
    asked: dict[str, Any] = {
        "pair": "testbed",
        "methods": ("lora", "full"),
        "seeds": 1,
        "learning_rates": 1,
        "tokens": 4000,
    }
    return prepare(CompareConfig(**asked | changes)).sub_runs[0]


def test_only_cells_with_other_tokens_or_ranks_are_others() -> None:
    plain, asked = sub_run_of(), sub_run_of(match="flops", match_params=True)
    assert asked.fingerprint != plain.fingerprint and asked.all_cells() == plain.all_cells()
    full = load_recipe("full").name
    sub_run = with_costs(asked, {"lora": Cost(2.0), full: Cost(4.0)})
    (lora,), (half,) = (sub_run.cells(recipe) for recipe in sub_run.recipes)
    assert [cell.tokens for cell in (lora, half)] == [4000, 2000]
    assert [lora.fingerprint, half.fingerprint][0] == plain.all_cells()[0].fingerprint
    assert half.fingerprint != plain.all_cells()[1].fingerprint
    assert sub_run.identity.tokens == {"lora": 4000, "full": 2000}
    wider = with_ranks(asked, {"lora": Rank(16, 1, "")})
    assert wider.recipes[0].rank(wider.pair) == 16
    assert wider.all_cells()[0].fingerprint != lora.fingerprint
    kept = with_ranks(asked, {"lora": Rank(8, 1, "why")})
    assert kept.budget.notes == {"lora": "why"} and kept.all_cells()[0].fingerprint == lora.fingerprint


def test_a_cell_is_trained_on_its_own_tokens(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = batches.training_rows(pair)
    seen: list[int] = []

    def note(*_: Any, run: CellRun, **__: Any) -> None:
        seen.append(sum(len(rows[i].input_ids) for i in run.order))
        raise StopIteration

    monkeypatch.setattr("sails_eval.training.cell.train_cell", note)
    cell = sub_run_of(methods=("lora",)).all_cells()[0]
    for tokens in (None, 150):
        with pytest.raises(StopIteration):
            folder, run = ModelFolder(tmp_path), RunFolder(tmp_path)
            stages.train(stages.TrainJob(pair, replace(cell, tokens=tokens), folder, run=run))
    assert seen[0] >= pair.tokens > seen[1] >= 150


def test_the_ledger_holds_every_cell_to_its_budget(tmp_path: Path) -> None:
    record: dict[str, Any] = {
        "steps": 10, "examples": 80, "unique_examples": 64, "labelled_examples": 64, "further_examples": 0,
        "rejected_answers": 0, "flops": 7, "seconds": 1.5, "peak_memory_bytes": 9,
        "trainable_params": 25, "total_params": 1000, "losses": [],
    }  # fmt: skip
    sub_run = with_costs(sub_run_of(match="flops"), {"lora": Cost(2.0), "full": Cost(4.0)})

    def kept(full: int) -> pd.DataFrame:
        run = RunFolder(tmp_path)
        for cell, tokens in zip(sub_run.all_cells(), (4100, full), strict=True):
            TrainRecord(**record, tokens=tokens).write(run.cell(cell).record.path)
        return ledger(run, sub_run)

    frame = kept(2050)
    assert dict(zip(frame["method"], frame["matched_flops"], strict=True)) == {"lora": 8200, "full": 8200}
    step = sub_run.pair.batch_size * sub_run.pair.max_length
    kept(2000 + step - 1)  # a last batch of the longest examples
    for wrong in (1990, 2000 + step):
        with pytest.raises(ValueError, match=f"full should have 2000 tokens, but has {wrong}"):
            kept(wrong)


def test_the_pace_is_kept_beside_a_run_that_is_only_begun(tmp_path: Path) -> None:
    sub_run = with_costs(sub_run_of(match="seconds"), {"lora": Cost(0.1), "full": Cost(0.2, 1.0, 0.5)})
    run = RunFolder(tmp_path)
    write_pace(run, sub_run)
    assert read_pace(run, sub_run) == sub_run.budget.costs
    run.check(sub_run.identity)  # nothing but that: a run that was killed at its start
    write_pace(run, with_costs(sub_run, {"lora": Cost(9.0), "full": Cost(9.0)}))
    assert read_pace(run, sub_run) == sub_run.budget.costs  # a later measurement changes nothing
    recipes = (
        tuple(recipe.model_copy(update={"rank_factor": 2}) for recipe in sub_run.recipes[:1]) + sub_run.recipes[1:]
    )
    assert set(read_pace(run, replace(sub_run, recipes=recipes))) == {"full"}  # another recipe has another pace
    described = Description(
        run="", pair="", environment="", test_set="", budget="", date="", version="0.1.0", identity=sub_run.identity
    )
    described.write(run.description_file)
    assert set(read_pace(run, replace(sub_run, recipes=recipes), any_version=True)) == {"lora", "full"}
    assert set(read_pace(run, replace(sub_run, recipes=recipes))) == {"full"}
    write_pace(RunFolder(tmp_path / "flops"), sub_run_of(match="flops"))
    assert not (tmp_path / "flops").exists()


@pytest.mark.slow
def test_what_is_steered_and_walked_through_whole_is_foretold(tmp_path: Path) -> None:
    pair, run = load_pair("testbed"), RunFolder(tmp_path)
    recipes = [load_recipe(name) for name in ("corda", "sails-output")]
    prices = flops_costs(pair, [*recipes, load_recipe("safe-lora")])
    for recipe in recipes:
        find_subspace(StartJob(pair, recipe, (0,), run))
        price = prices[recipe.name]
        assert price.before - price.saes == pytest.approx(run.subspace_report(recipe.name, 0).cost.flops, rel=0.01)
    assert prices["safe-lora"].before == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["corda", "sails", "lda"])
def test_preparations_are_foretold_on_texts_of_unequal_length(name: str, tmp_path: Path) -> None:
    pair = load_pair("testbed")
    assert isinstance(pair.contrast, Path)
    lines = [json.loads(line) for line in pair.contrast.read_text().splitlines()[:24]]
    lines[0]["chosen"] = 8 * (lines[0]["chosen"] + " ")
    (tmp_path / "contrast.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    own = {"contrast": tmp_path / "contrast.jsonl", "contrast_examples": "all"}
    pair, recipe = pair.model_copy(update=own), load_recipe(name)
    price = flops_costs(pair, [recipe])[name]
    run = RunFolder(tmp_path)
    find_subspace(StartJob(pair, recipe, (None,), run))
    assert price.before - price.saes == pytest.approx(run.subspace_report(name).cost.flops, rel=0.05)


def test_what_was_not_foretold_is_told() -> None:
    sub_run = with_costs(sub_run_of(match="flops"), {"lora": Cost(2.0, 1500.0, 500.0), "full": Cost(4.0)})
    assert (
        misjudged(sub_run.budget, {"lora": Took(9200.0, 4000), "full": Took(9400.0, 2375)}) == {}
    )  # of 9,000 and 9,500
    told = misjudged(sub_run.budget, {"lora": Took(11_000.0, 4000), "full": Took(9500.0, 2375)})
    assert told == {"lora": "a cell with its preparation took 1.1e+04 FLOPs, but 9e+03 were predicted"}
    assert misjudged(sub_run_of().budget, {"lora": Took(1.0, 1)}) == {}


def test_what_an_earlier_run_or_this_one_measured_is_not_measured_again(tmp_path: Path) -> None:
    sub_run = sub_run_of(match="seconds")
    new_run, old = RunFolder(tmp_path / "new"), RunFolder(tmp_path / "old")
    asked: list[Any] = []

    class Pool:
        def run(self, function: Any, item: Any) -> Any:
            if function is check_training:
                return None
            _, (one,) = item
            asked.append([recipe.name for recipe in one.recipes])
            return {recipe.name: Cost(0.3) for recipe in one.recipes}

    pool: Any = Pool()

    def plan_of(one: SubRun) -> Plan:
        return Plan(one.config, (one,))

    write_pace(old, with_costs(sub_run, {"lora": Cost(0.1), "full": Cost(0.2)}))
    (new,) = matched(plan_of(sub_run), pool, new_run, old=old).sub_runs
    assert asked == [] and new.budget.tokens == {"lora": 4000, "full": 2000}
    more = plan_of(sub_run_of(match="seconds", methods=("lora", "full", "full-linear")))
    (new,) = matched(more, pool, new_run, old=old).sub_runs
    assert asked == [["full-linear"]]
    write_pace(new_run, new)
    (again,) = matched(more, pool, new_run, old=old).sub_runs
    assert asked == [["full-linear"]] and again.fingerprint == new.fingerprint
    plain = plan_of(sub_run_of())
    assert matched(plain, pool, RunFolder(tmp_path / "plain")) == plain
