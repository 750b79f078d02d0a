"""The forest plot, and what methods look like in every picture."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imread

from sails_eval.boards.contrasts import Comparison, Contrast
from sails_eval.boards.forest import draw_comparisons, told_of
from sails_eval.boards.looks import BASE_LOOK, PLACES, SHIPPED, look_of, looks_of
from sails_eval.core.paths import bundled
from sails_eval.core.stats import Interval


def compared(b: str, metric: str, *ends: float, rivals: tuple[str, ...] = ()) -> Comparison:
    contrast = Contrast("sails", "rest" if rivals else b, metric, rivals)
    return Comparison(contrast, b, Interval(*ends), 0.2, 1.0, 0.03, (0.1, 0.2))


PAIRS = [compared("lora-2r", "refusal_rate", 0.1, -0.2, 0.3), compared("base", "harm_score", -1.5, -2.0, -1.0)]
BEST = compared("lora", "alignment_score", 0.01, -0.02, 0.04, rivals=("lora", "full"))


def row(*told: Comparison) -> dict[str, Any]:
    return {"method": "sails", "contrasts": "; ".join(map(str, told))}


def test_what_a_board_tells_is_read_back() -> None:
    found = told_of("sails", row(*PAIRS, BEST)["contrasts"])
    assert [(one.b, one.metric) for one in found] == [
        ("lora-2r", "refusal"),
        ("base", "harm score"),
        ("lora", "alignment score"),
    ]
    assert [one.difference for one in found] == [one.difference for one in (*PAIRS, BEST)]
    assert [one.label for one in found] == [
        "sails − lora-2r",
        "sails − base",
        "sails, best on tuning, − lora, nearest of the rest",
    ]
    assert told_of("sails", "") == []


def has(path: Path, colour: str) -> bool:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return bool((np.abs(imread(path)[..., :3] * 255 - wanted).max(axis=-1) < 3).sum() > 20)


def test_every_comparison_is_drawn_in_the_colour_of_its_second_row(tmp_path: Path) -> None:
    draw_comparisons([row(*PAIRS), {"method": "lora", "contrasts": ""}], tmp_path / "a.png")
    draw_comparisons([row(*PAIRS)], tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert has(tmp_path / "a.png", look_of("lora-2r")[0]) and has(tmp_path / "a.png", BASE_LOOK[0])
    assert has(tmp_path / "a.png", "#eeeeee") and not has(tmp_path / "a.png", look_of("sails")[0])
    draw_comparisons([row()], tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["b.png"]


def test_a_method_looks_the_same_whatever_stands_beside_it() -> None:
    assert looks_of(["lora", "sails"])["sails"] == looks_of(["sails"])["sails"] == look_of("sails")
    assert looks_of(["own", "full"])["own"] == looks_of(["own"])["own"]
    assert look_of("base") == BASE_LOOK
    recipes = {path.stem for path in bundled("adapters").glob("[!_]*.yaml")}
    assert recipes == set(SHIPPED) and len(SHIPPED) <= PLACES
    assert len({*looks_of(SHIPPED).values()}) == len(SHIPPED)
    assert len({look_of(name)[0] for name in SHIPPED[:7]}) == 7
