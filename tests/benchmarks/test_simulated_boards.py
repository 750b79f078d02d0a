"""The benchmarks run; what they measure is in benchmarks/README.md and not asserted here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize("organisms", [1, 2])
def test_the_simulation_of_boards_runs_and_its_truth_is_that_of_its_draws(
    organisms: int, benchmark: Callable[[str], Any]
) -> None:
    simulation = benchmark("simulated_boards")
    world = simulation.World(0.5, seeds=5, categories=2, organisms=organisms)
    drawn = simulation.simulate(world, 60, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.test.mean(axis=(0, 1, 4)), drawn.expected.mean(axis=(0, 1)), atol=0.06)
    found = simulation.measure(world, 20, seed=0)
    assert found.rows > 0.8 and found.contrasts > 0.8 and found.false_wins < 0.3


@pytest.mark.parametrize("collapse", ["none", "refusal", "help", "sails", "even"])
def test_the_simulation_of_the_protocol_runs_and_its_truth_is_that_of_its_draws(
    collapse: str, benchmark: Callable[[str], Any]
) -> None:
    simulation = benchmark("simulated_confirm")
    world = simulation.World(6, 3, 0.8, collapse, better=0.05)
    drawn = simulation.simulate(world, 400, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.test.mean(axis=(0, 2, 3)), drawn.truth.mean(axis=0), atol=0.02)
    found = simulation.measure(world, 20, seed=0)
    assert min(found.rows, found.contrasts, found.together) > (0.6 if collapse == "even" else 0.8)  # three seeds
    assert found.detectable > 0
    assert len(simulation.candidates(world, 20, seed=0)) == 8
