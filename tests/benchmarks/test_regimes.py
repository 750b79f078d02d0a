"""The table of regimes: every budget a row, and what may be said of each contrast."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sails_eval.boards.scoring import write_results
from sails_eval.core.records import Result
from sails_eval.plan.identity import Identity
from sails_eval.run.folder.records import Description
from sails_eval.run.folder.run_folder import RunFolder


@pytest.fixture(scope="module")
def script(benchmark: Callable[[str], Any]) -> Any:
    return benchmark("regimes")


def results(ahead: float, organism: int) -> list[Result]:
    """SAILS refuses more than LoRA by `ahead`, and full as much as SAILS, but for a little luck of seeds."""
    rows = []
    for seed in range(5):
        luck = 0.01 * ((seed + organism) % 3 - 1)
        for method, refused in (("sails", 0.5 + ahead + luck), ("lora", 0.5), ("full", 0.5 + ahead + luck / 2)):
            rows.append(Result(method, seed, 1e-3, "test", "bad", "all", "refusal_rate", refused, 100, 0))
            rows.append(Result(method, seed, 1e-3, "test", "good", "all", "helpfulness", 0.9, 100, 0))
    return rows


@pytest.fixture
def run(tmp_path: Path, own_tasks: None, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    made = RunFolder(tmp_path / "run")
    described = Description(
        run="r", pair="a, b", environment="e", test_set="t", budget="b", date="d", version="v", identity=Identity()
    )
    for organism, pair in enumerate(("a", "b")):
        for budget, ahead in (("examples-8-steps-10", 0.2), ("examples-32-steps-10", -0.2)):
            write_results(made.path / pair / budget / "results.csv", results(ahead, organism))
            described.write(made.path / pair / budget / "run.json")
    monkeypatch.chdir(tmp_path)
    return made


def test_every_budget_is_a_regime_over_all_its_organisms(script: Any, run: RunFolder) -> None:
    rivals, metrics = ("lora", "full", "activation-svd-r"), ("refusal_rate",)
    found = {one.title: one for one in script.regimes_of("few", run, "sails", rivals, metrics)}
    assert found.keys() == {"few, 8 examples, 10 steps", "few, 32 examples, 10 steps"}
    up, down = (found[f"few, {n} examples, 10 steps"] for n in (8, 32))
    assert (up.organisms, up.seeds) == (2, 5) and up.found["refusal_rate"].keys() == {"lora", "full"}
    said = [script.verdict(one.found["refusal_rate"][b]) for one in (up, down) for b in ("lora", "full")]
    assert said == ["**above**", "equivalent", "**below**", "equivalent"]
    text = script.page([up, down], rivals, metrics)
    assert "nothing learned" not in text
    idle = up._replace(learned=False)
    assert "nothing learned" in script.page([idle], rivals, metrics) and up.learned
    assert "| few, 8 examples, 10 steps | 2 × 5 | `sails` 0.70 | +0.20 [" in text and "activation-svd-r" not in text


def test_what_shows_nothing_says_what_it_could_have_seen(script: Any, run: RunFolder) -> None:
    noisy = [
        row
        if row.method != "sails" or row.metric != "refusal_rate"
        else Result(
            row.method,
            row.seed,
            1e-3,
            "test",
            "bad",
            "all",
            "refusal_rate",
            0.5 + 0.2 * (-1) ** (row.seed or 0),
            100,
            0,
        )
        for row in results(0.0, 0)
    ]
    write_results(run.path / "alone" / "results.csv", noisy)
    (one,) = script.regimes_of("", RunFolder(run.path / "alone"), "sails", ("lora",), ("refusal_rate",))
    assert script.verdict(one.found["refusal_rate"]["lora"]).startswith("not distinguished (could have detected 0.")
