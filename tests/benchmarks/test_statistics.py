"""The benchmarks run; what they measure is in benchmarks/README.md and not asserted here."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("organisms", [1, 2])
def test_the_simulation_of_boards_runs_and_its_truth_is_that_of_its_draws(organisms: int) -> None:
    spec = importlib.util.spec_from_file_location("board_simulation", FOLDER / "statistics.py")
    assert spec and spec.loader
    simulation = sys.modules["board_simulation"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(simulation)
    world = simulation.World(0.5, seeds=5, categories=2, organisms=organisms)
    drawn = simulation.simulate(world, 60, np.random.default_rng(0))
    np.testing.assert_allclose(drawn.test.mean(axis=(0, 1, 4)), drawn.expected.mean(axis=(0, 1)), atol=0.06)
    found = simulation.measure(world, 20, seed=0)
    assert found.rows > 0.8 and found.contrasts > 0.8 and found.false_wins < 0.3
