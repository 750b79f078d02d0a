import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from sails_eval.boards.leaderboard import choose_rates
from sails_eval.boards.looks import SHIPPED, look_of
from sails_eval.boards.plot import tradeoff
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.errors import UserError
from sails_eval.core.records import Kind, Result, Split


@dataclass(frozen=True)
class Info:
    kind: Kind
    seen_in_training: bool = False


TASKS = {"harmful": Info("harmful"), "safe": Info("safe")}


def cell(
    method: str, split: Split, seed: int | None, rate: float | None, *, safe: float, helpful: float
) -> list[Result]:
    key = (method, seed, rate, split)
    return [
        Result(*key, "harmful", "all", "refusal_rate", safe, 100, 0),
        Result(*key, "safe", "all", "helpfulness", helpful, 100, 0),
    ]


def example() -> list[Result]:
    results = cell("base", "test", None, None, safe=0.02, helpful=0.97)
    for shift, method in ((0.1, "sails"), (0.0, "lora")):
        for seed in (0, 1):
            for place, rate in enumerate((1e-4, 1e-3, 1e-2)):
                safe, helpful = (0.2, 0.8, 0.9)[place] + 0.01 * seed, 0.9 - 0.3 * place + shift
                results += cell(method, "validation", seed, rate, safe=safe, helpful=min(helpful, 0.99))
            results += cell(method, "test", seed, 1e-3, safe=0.7 + 0.02 * seed, helpful=0.5 + shift)
    return results


def near(image: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels have this colour."""
    return int((np.abs(image[..., :3] * 255 - np.array(colour)).max(axis=-1) < 3).sum())


def test_the_picture_shows_every_method_and_is_the_same_every_time(tmp_path: Path) -> None:
    results = example()
    choices = choose_rates(results, TASKS)
    tradeoff(results, TASKS, choices, tmp_path / "deep" / "one.png")
    tradeoff(list(reversed(results)), TASKS, choices, tmp_path / "two.png")
    assert (tmp_path / "deep" / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["one.png"]
    image = imread(tmp_path / "two.png")
    blue, vermillion, grey = (0, 114, 178), (213, 94, 0), (85, 85, 85)
    assert min(near(image, colour) for colour in (blue, vermillion, grey)) > 100

    tradeoff(results, TASKS, {"base": choices["base"], "lora": choices["lora"]}, tmp_path / "less.png")
    assert near(imread(tmp_path / "less.png"), blue) == 0 < near(imread(tmp_path / "less.png"), vermillion)


def test_many_methods_have_a_panel_for_what_was_tested_and_keep_their_colours(tmp_path: Path) -> None:
    """37 rows in one panel hid each other, and a method's colour depended on the others."""
    results = example()
    for extra in [name for name in SHIPPED if name not in ("sails", "lora")][:34]:
        results += [replace(row, method=extra) for row in example() if row.method == "lora"]
    choices = choose_rates(results, TASKS)
    tradeoff(results, TASKS, choices, tmp_path / "many.png")
    few = [row for row in results if row.method in ("base", "sails", "lora")]
    tradeoff(few, TASKS, choose_rates(few, TASKS), tmp_path / "few.png")
    many = imread(tmp_path / "many.png")
    assert many.shape[1] > 1.5 * imread(tmp_path / "few.png").shape[1]
    red, green, blue = (int(look_of("sails")[0][i : i + 2], 16) for i in (1, 3, 5))
    sails = (red, green, blue)
    assert min(near(many, sails), near(imread(tmp_path / "few.png"), sails)) > 50


def test_base_alone_can_be_drawn(tmp_path: Path) -> None:
    tradeoff(
        cell("base", "test", None, None, safe=0.02, helpful=0.97),
        TASKS,
        {"base": Choice("base", None)},
        tmp_path / "p.png",
    )
    assert near(imread(tmp_path / "p.png"), (85, 85, 85)) > 50


def test_a_method_that_was_not_tested_at_its_rate_is_an_error(tmp_path: Path) -> None:
    results = [r for r in example() if (r.method, r.split) != ("lora", "test")]
    with pytest.raises(UserError, match="lora: no test results"):
        tradeoff(results, TASKS, choose_rates(results, TASKS), tmp_path / "p.png")
    assert list(tmp_path.iterdir()) == []


def test_drawing_leaves_pyplot_and_torch_alone() -> None:
    code = "import sys, sails_eval.boards.plot; print([m for m in ('matplotlib.pyplot', 'torch') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
