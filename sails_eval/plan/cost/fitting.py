"""Micro-batches and gradient checkpointing that fit into memory, where a pair leaves these open.

They change time and memory, and results by rounding alone, so they are no part of what determines a run.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

from sails_eval.core.device import ROOM
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.plan.cost.machine import Machine
from sails_eval.plan.cost.meta_model import Shape, shape_of
from sails_eval.plan.cost.step_cost import Reading, cost_of, readings
from sails_eval.plan.problems import if_it_can

EXAMPLES_ON_CPU = 2
"""Examples at a time on a CPU, which computes as fast with few: larger micro-batches are mostly padding."""


def fitting(
    pair: Pair, recipes: Sequence[Recipe], *, found: Mapping[str, Reading], shape: Shape, machine: Machine
) -> Pair:
    """The pair with the largest micro-batches with which every recipe fits into memory, up to two examples on a CPU.

    Activations are computed twice only where not even single examples fit otherwise. Where nothing fits, it is the
    setting that takes least.
    """

    def peak(candidate: Pair) -> int:
        return max(cost_of(found[recipe.name], shape, candidate, recipe).memory.peak for recipe in recipes)

    every = list(candidates(pair, most=pair.batch_size if machine.gpu else EXAMPLES_ON_CPU))
    return next((one for one in every if peak(one) <= ROOM * machine.memory), min(every, key=peak))


def candidates(pair: Pair, *, most: int) -> Iterator[Pair]:
    """The pair with each setting that it allows, with micro-batches of up to `most` examples, fast ones first."""
    whole, asked = pair.batch_size, pair.micro_batch_size
    sizes = [asked] if asked else [n for n in range(min(whole, most), 0, -1) if whole % n == 0]
    switches = (False, True) if pair.gradient_checkpointing is None else (pair.gradient_checkpointing,)
    for switch, size in product(switches, sizes):
        yield pair.model_copy(update={"micro_batch_size": size, "gradient_checkpointing": switch})


def fit_here(job: tuple[Pair, Sequence[Recipe]]) -> Pair:
    """The pair with micro-batches in which the recipes fit this machine, as far as the model's shape is known."""
    pair, recipes = job
    shape = if_it_can(shape_of, pair)
    found = shape and if_it_can(readings, shape, pair, recipes)
    if not (shape and found):
        return pair
    return fitting(pair, recipes, found=found, shape=shape, machine=Machine.this())
