from types import SimpleNamespace
from typing import Any

from sails_eval.run.report.report import _warnings


def outcome(pair: str, *warnings: str) -> Any:
    return SimpleNamespace(plan=SimpleNamespace(pair=SimpleNamespace(name=pair)), warnings={"lora": warnings})


def test_warnings_of_several_pairs_are_told_once_with_all_pairs_that_they_are_of() -> None:
    edge = "learning rate 0.02 is at the edge of its grid (0.01 to 0.02), so a better one may lie outside"
    cut = "rank 8 truncates the subspace"
    found = _warnings([outcome("a", edge, f"{cut}: at layer 1"), outcome("b", edge, f"{cut}: at layer 2")], "lora")
    assert found == (f"{edge} (on all 2 pairs)", f"{cut}: at layer 1 (on all 2 pairs, figures of a)")
    found = _warnings([outcome("a"), outcome("b", edge), outcome("c", edge, "x: 1", "x: 2")], "lora")
    assert found == (f"{edge} (on b, c)", "x: 1 (on c)", "x: 2 (on c)")
    assert _warnings([outcome("a", "x: 1", "x: 2")], "lora") == ("x: 1", "x: 2")
