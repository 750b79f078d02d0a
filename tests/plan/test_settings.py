"""Settings of a pair that flags and keys of a configuration override."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sails_eval.cli import parser
from sails_eval.cli.common import read_config
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.pair import load_pair, read_yaml
from sails_eval.core.training_settings import Settings
from sails_eval.plan.plan import SubRun
from sails_eval.plan.prepare import prepare
from sails_eval.plan.protocol import first_seed
from sails_eval.plan.resolve import load_methods, resolve_pair
from sails_eval.run.folder.description import describe
from sails_eval.tasks.library import load_task

GIVEN: dict[str, Any] = {
    "dtype": "bfloat16",
    "attn_implementation": "sdpa",
    "rank": 4,
    "alpha": 5,
    "target_modules": ("q_proj", "v_proj"),
    "max_length": 64,
    "max_new_tokens": 7,
    "batch_size": 8,
    "micro_batch_size": 2,
    "gradient_checkpointing": True,
    "eval_batch_size": 9,
    "end_loops": True,
}


def planned(**asked: Any) -> SubRun:
    (one,) = prepare(CompareConfig(pair="testbed", methods=("lora",), **asked)).sub_runs
    return one


def test_every_setting_is_a_key_of_the_pair_and_here() -> None:
    assert GIVEN.keys() == Settings.model_fields.keys() <= type(load_pair("testbed")).model_fields.keys()


def test_settings_go_before_the_pair() -> None:
    pair = resolve_pair(CompareConfig(pair="testbed", **GIVEN))
    assert {key: getattr(pair, key) for key in GIVEN} == GIVEN
    assert resolve_pair(CompareConfig(model="m", **GIVEN)).rank == 4


def test_flags_and_a_file_say_the_same(tmp_path: Path) -> None:
    told = {key: list(value) if isinstance(value, tuple) else value for key, value in GIVEN.items()}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**told, "learning_rate": {"lora": 1e-3}}))
    words = ["compare", "--learning-rate", "lora=1e-3"]
    for key, value in told.items():
        words += [f"--{key}", *(value if isinstance(value, list) else ["on" if value is True else str(value)])]
    assert read_config(parser("compare").parse_args(words)) == read_yaml(tmp_path / "c.yaml", CompareConfig)


@pytest.mark.parametrize("key", sorted(GIVEN))
def test_what_determines_results_is_in_the_identity(key: str) -> None:
    """Memory settings are, too, where they are given outright."""
    before, after = planned(), planned(**{key: GIVEN[key]})
    assert before.fingerprint != after.fingerprint
    if key not in ("max_new_tokens", "gradient_checkpointing", "micro_batch_size", "end_loops"):
        (one, *_), (other, *_) = before.all_cells(), after.all_cells()
        assert one.fingerprint != other.fingerprint


def test_a_setting_that_the_pair_has_already_changes_nothing() -> None:
    same = planned(rank=8, alpha=16, dtype="float32", micro_batch_size="auto", gradient_checkpointing="auto")
    assert same.fingerprint == planned().fingerprint
    assert same.pair.micro_batch_size is None and same.pair.gradient_checkpointing is None


def test_micro_batches_have_to_divide_the_batch() -> None:
    with pytest.raises(
        UserError, match="pair 'testbed' with the settings given: micro_batch_size 3 does not divide batch"
    ):
        resolve_pair(CompareConfig(pair="testbed", micro_batch_size=3))


def test_shorter_answers_are_another_test() -> None:
    before, after = planned(), planned(max_new_tokens=7)
    for task in before.tasks:
        kept = before.identity.tasks[task.name] == after.identity.tasks[task.name]
        assert kept == (task.kind == "capability")
    assert describe(before).test_set != describe(after).test_set
    assert load_task(after.tasks[0], "test").config.generation_kwargs["max_gen_toks"] == 7
    assert load_task(before.tasks[0], "test").config.generation_kwargs["max_gen_toks"] > 7


def test_a_board_says_what_was_set() -> None:
    assert "rank 4, learning rate 0.001" in describe(planned(rank=4, learning_rate=1e-3)).budget
    assert "rank" not in describe(planned()).budget


def test_another_setting_is_confirmed_on_other_seeds() -> None:
    config = CompareConfig(pair="testbed", methods=("lora",), protocol="confirm")
    recipes, _ = load_methods(config)
    other, memory = (config.model_copy(update=change) for change in ({"rank": 4}, {"micro_batch_size": 2}))
    assert first_seed(config, recipes) == first_seed(memory, recipes) != first_seed(other, recipes)


# --- learning rates ----------------------------------------------------------------------------------------------


def test_a_rate_takes_the_place_of_the_grid() -> None:
    one = planned(learning_rate=1e-3)
    assert [cell.learning_rate for cell in one.all_cells()] == [1e-3] * 5 and one.trials == 1
    assert len(planned(learning_rate=1e-3, quick=True).all_cells()) == 2
    (each,) = prepare(
        CompareConfig(pair="testbed", methods="lora full", learning_rate="lora=1e-3,full=2e-4")  # type: ignore[arg-type]
    ).sub_runs
    assert {cell.recipe.name: cell.learning_rate for cell in each.all_cells()} == {"lora": 1e-3, "full": 2e-4}


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"learning_rate": {"lora": 1e-3}}, "--learning-rate: no rate for method 'full'; give a rate"),
        (
            {"learning_rate": {"lora": 1e-3, "fall": 1e-3}},
            "method in --learning-rate 'fall'; did you mean full",
        ),
        ({"learning_rate": 1e-3, "learning_rates": 4}, "--learning-rates 4 asks for a grid .*; leave one of them out"),
        ({"learning_rate": 1e-3, "protocol": "confirm"}, "--learning-rate: --protocol confirm tunes learning rates"),
    ],
)
def test_a_rate_that_breaks_equal_tuning_is_refused(asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        prepare(CompareConfig(pair="testbed", methods=("lora", "full"), **asked))


@pytest.mark.parametrize("rate", [0, "-1e-3", "lora", "lora=0"])
def test_a_rate_is_a_number_above_0(rate: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"learning_rate": rate}))
    with pytest.raises(UserError, match=r"c\.yaml: key 'learning_rate"):
        read_yaml(tmp_path / "c.yaml", CompareConfig)


# --- lists in YAML -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a,b", "a b", "a, b", ["a", "b"]])
def test_lists_of_a_file_have_commas_or_spaces(text: Any) -> None:
    config = CompareConfig(methods=text, tasks=text, send_to=text)
    assert config.methods == config.tasks == config.send_to == ("a", "b")
    assert CompareConfig(examples="16 64").examples == CompareConfig(examples="16,64").examples == (16, 64)  # type: ignore[arg-type]
    assert CompareConfig(examples=16, reference="a").examples == (16,)  # type: ignore[arg-type]


def test_a_path_of_a_file_may_hold_spaces_and_commas() -> None:
    config = CompareConfig(reference="a b/m", sae="a, b/s", task_data="x=a b/f.csv", include_path=["a", "b"])  # type: ignore[arg-type]
    assert (config.reference, config.sae, config.task_data) == (("a b/m",), (Path("a, b/s"),), ("x=a b/f.csv",))
    assert config.include_path == (Path("a"), Path("b"))
