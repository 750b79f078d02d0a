"""A model of a billion parameters on a GPU of 24 GB, by its shape alone."""

from collections.abc import Mapping

import pytest

from sails_eval.core.device import ROOM
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe, load_recipe
from sails_eval.plan.cost.fitting import EXAMPLES_ON_CPU, candidates, fitting
from sails_eval.plan.cost.machine import Machine
from sails_eval.plan.cost.meta_model import Shape, shape_of
from sails_eval.plan.cost.step_cost import Reading, cost_of, readings

GB = 10**9

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
LLAMA = Pair(name="llama", model="meta-llama/Llama-3.2-1B", dtype="bfloat16", target_modules=MODULES)

RECIPES = [load_recipe(name) for name in ("lora", "full")]


@pytest.fixture(scope="module")
def read() -> tuple[Shape, Mapping[str, Reading]]:
    shape = shape_of(LLAMA)
    return shape, readings(shape, LLAMA, RECIPES)


def peaks(pair: Pair, read: tuple[Shape, Mapping[str, Reading]]) -> dict[str, int]:
    shape, found = read
    return {recipe.name: cost_of(found[recipe.name], shape, pair, recipe).memory.peak for recipe in RECIPES}


def fits(pair: Pair, read: tuple[Shape, Mapping[str, Reading]], memory: int, recipes: list[Recipe] = RECIPES) -> Pair:
    shape, found = read
    return fitting(pair, recipes, found=found, shape=shape, machine=Machine("a GPU", True, memory, 0))


def test_full_fine_tuning_of_a_billion_parameters_fits_24_gb(read: tuple[Shape, Mapping[str, Reading]]) -> None:
    assert read[1]["full"].total == 1_235_814_400  # as the hub counts them
    found = fits(LLAMA, read, 24 * 2**30)
    peak = peaks(found, read)["full"]
    sixteen_bytes = 16 * 1_235_814_400  # weights, gradients and AdamW's two numbers in single precision
    assert sixteen_bytes < peak < 0.95 * 24 * GB
    assert found.gradient_checkpointing and peak <= ROOM * 24 * 2**30 < peaks(LLAMA, read)["full"]


def test_adapters_alone_need_no_second_forward_pass(read: tuple[Shape, Mapping[str, Reading]]) -> None:
    found = fits(LLAMA, read, 24 * 2**30, RECIPES[:1])
    assert not found.gradient_checkpointing and (found.micro_batch_size or 0) >= 4


def test_with_plenty_of_memory_the_batch_is_whole(read: tuple[Shape, Mapping[str, Reading]]) -> None:
    found = fits(LLAMA, read, 200 * 2**30)
    assert (found.micro_batch_size, found.gradient_checkpointing) == (16, False)


def test_on_a_cpu_there_are_few_examples_at_a_time_whatever_fits(read: tuple[Shape, Mapping[str, Reading]]) -> None:
    shape, found = read
    cpu = Machine("CPU", False, 10**13, 0)
    assert fitting(LLAMA, RECIPES, found=found, shape=shape, machine=cpu).micro_batch_size == EXAMPLES_ON_CPU == 2
    odd = LLAMA.model_copy(update={"batch_size": 5})
    assert fitting(odd, RECIPES, found=found, shape=shape, machine=cpu).micro_batch_size == 1


def test_where_nothing_fits_it_is_what_takes_least(read: tuple[Shape, Mapping[str, Reading]]) -> None:
    least = peaks(fits(LLAMA, read, 2**30), read)
    assert max(least.values()) == min(max(peaks(one, read).values()) for one in candidates(LLAMA, most=16))


def test_what_is_asked_for_stays() -> None:
    asked = LLAMA.model_copy(update={"micro_batch_size": 4, "gradient_checkpointing": False})
    assert list(candidates(asked, most=2)) == [asked]
    half = LLAMA.model_copy(update={"micro_batch_size": 4})
    assert [(one.micro_batch_size, one.gradient_checkpointing) for one in candidates(half, most=2)] == [
        (4, False),
        (4, True),
    ]


def test_logits_cost_a_tile_unless_a_regulariser_reads_them(read: tuple[Shape, Mapping[str, Reading]]) -> None:
    """TRL's trainers never hold all logits: 16 x 1024 x 128,256 in single precision alone would be 8.4 GB."""
    memory = cost_of(read[1]["lora"], read[0], LLAMA, RECIPES[0]).memory
    assert memory.workspace < GB and read[1]["lora"].logits == 1024 * 128_256 * 4
