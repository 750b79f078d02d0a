import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from sails_eval.analyses.power.measure import Spread, components, power, seeds_needed
from sails_eval.boards.scoring import read_results, write_results
from sails_eval.cli import main
from sails_eval.core.checksums import listing
from sails_eval.core.records import Result
from sails_eval.core.stats import Sample
from sails_eval.plan.identity import Identity
from sails_eval.run.folder.records import Description


def test_power_agrees_with_statsmodels_and_with_simulation() -> None:
    """statsmodels' TTestPower().power(0.5, nobs=34, alpha=0.05) is 0.8078; nobs for 0.8 is 33.4."""
    assert power(0.05, 0.1, seeds=34) == pytest.approx(0.8078, abs=5e-5)
    assert seeds_needed(0.05, 0.1, power_wanted=0.8) == 34
    draws = np.random.default_rng(0).normal(0.05, 0.05, (4000, 8))
    assert power(0.05, 0.05, seeds=8) == pytest.approx(
        np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05), abs=0.03
    )


def test_power_has_a_value_wherever_it_is_asked_for() -> None:
    found = [power(difference, 0.1, seeds=5) for difference in np.linspace(0, 40, 2000)]
    assert found == sorted(found) and found[0] == pytest.approx(0.05) and found[-1] == pytest.approx(1)
    assert power(-0.05, 0.1, seeds=34) == power(0.05, 0.1, seeds=34)


@pytest.mark.parametrize(("difference", "sd", "seeds", "alpha"), [(0.1, 0.3, 200, 5e-5), (1.0, 0.9, 20, 5e-5)])
def test_power_has_a_value_where_scipy_has_none(difference: float, sd: float, seeds: int, alpha: float) -> None:
    shift, limit = difference / sd * math.sqrt(seeds), special.stdtrit(seeds - 1, 1 - alpha / 2)
    assert math.isnan(special.nctdtr(seeds - 1, shift, limit) + special.nctdtr(seeds - 1, shift, -limit))
    chi = np.sqrt(np.random.default_rng(0).chisquare(seeds - 1, 100_000) / (seeds - 1))
    expected = (special.ndtr(shift - limit * chi) + special.ndtr(-shift - limit * chi)).mean()
    assert power(difference, sd, seeds=seeds, alpha=alpha) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize(("seeds", "expected"), [(2, 0.186132), (5, 0.619261), (30, 0.826231), (1000, 0.850168)])
def test_power_is_that_of_the_noncentral_t(seeds: int, expected: float) -> None:
    """Both tails of scipy.stats.nct beyond the limits of a test at 5 %, for a noncentrality of 3."""
    assert power(3 / math.sqrt(seeds), 1.0, seeds=seeds) == pytest.approx(expected, abs=2e-6)


def test_seeds_needed_has_ends() -> None:
    assert seeds_needed(0.5, 0.01, power_wanted=0.8) == 5  # fewer are never tested
    assert seeds_needed(0.001, 0.5, power_wanted=0.8) is None


def test_more_prompts_shrink_their_part_only() -> None:
    spread = Spread(0.05, prompts=0.03)
    assert spread.with_prompts(1) == pytest.approx(0.05)
    assert spread.with_prompts(4) == pytest.approx((0.04**2 + 0.015**2) ** 0.5)
    assert Spread(0.02, prompts=0.03).with_prompts(4) == pytest.approx(0.01)


@pytest.fixture
def run(tmp_path: Path, own_tasks: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two methods over three seeds on tasks of its own; a's scores exceed b's by 0, 0.1 and 0.2."""
    results = [
        Result(method, seed, 1e-3, "test", task, "all", metric, value, 100, 0)
        for method, shift in (("a", 0.1), ("b", 0.0))
        for seed in range(3)
        for task, metric, value in (("bad", "refusal_rate", 0.5 + shift * seed), ("good", "helpfulness", 0.9))
    ]
    write_results(tmp_path / "run" / "results.csv", results)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def test_the_spread_is_that_of_a_runs_paired_differences(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", "--difference", "0.1", "--from", "run"]) == 0
    shown = capsys.readouterr().out
    # prompts: a's (0.25 + 0.24 + 0.21) / 3 and b's 0.25 of harmful ones, 0.09 twice of safe ones, over 100 each
    prompts = ((0.7 / 3 + 0.25 + 2 * 0.09) / 100) ** 0.5
    assert "Standard deviation over seeds: 0.100 [0.052, 0.628] from 3 seeds (a - b in run)" in shown
    assert f"of which prompts {prompts:.3f}." in shown
    lines = [line.split() for line in shown.splitlines() if "×" in line]
    assert [line[1] for line in lines] == ["1", "2", "4"]
    needed = seeds_needed(0.1, 0.1, power_wanted=0.8)
    assert needed is not None
    assert int(lines[0][-1]) == needed >= int(lines[2][-1])


def test_what_else_a_run_measured_changes_no_spread(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = "power --difference 0.1 --from run".split()
    sums = Result("a", 0, 1e-3, "validation", "sums", "all", "capability", 0.5, 10, 0)
    assert main(asked) == 0
    before = capsys.readouterr().out
    write_results(run / "results.csv", [*read_results(run / "results.csv"), sums])
    assert main(asked) == 0
    assert capsys.readouterr().out == before


def test_earlier_names_of_the_flags_are_taken_with_a_warning(
    run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for now, earlier in (("--comparisons a:b", "--contrast a,b"), ("--n-comparisons 4", "--contrasts 4")):
        shown = []
        for flags in (now, earlier):
            caplog.clear()
            assert main(f"power --difference 0.1 --from run {flags}".split()) == 0
            shown.append(capsys.readouterr().out)
        assert shown[0] == shown[1]
        assert caplog.messages == [f"{earlier.split()[0]} is deprecated; use {now.split()[0]} instead"]


def test_bad_input_to_power_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        ("--difference 3 --sd 0.1", "--difference 3: give a value above 0 and below 2"),
        ("--difference 0.1 --sd 0.1 --power 1", "--power 1"),
        ("--difference 0.1 --sd 0.1 --n-comparisons 0", "give --n-comparisons of 1 or more"),
        ("--difference 0.1 --sd 0.1 --prompt-sd nan", "--prompt-sd and --organism-sd of 0 or more"),
        ("--difference 0.1 --sd 0.1 --organism-sd inf", "--prompt-sd and --organism-sd of 0 or more"),
        ("--difference 0.1 --sd 0.1 --organism-sd 1e200", "--organism-sd of 0 or more and below 2"),
        ("--difference 0.1 --sd 0.1 --prompt-sd 0.2", "--prompt-sd 0.2: it is a part of --sd"),
        ("--difference 0.1 --sd 0.1 --metric nope", "unknown metric 'nope'"),
        ("--difference 0.1 --sd 0.1 --comparisons a:b", "--comparisons works with --from only"),
        ("--difference 0.1 --sd 0.1 --include-path .", "--include-path works with --from only"),
        ("--difference 0.1 --sd 0.1 --power 0.01", "--power 0.01: give more than 0.05"),
        ("--difference 0.1 --sd 0.1 --prompt-sd 0.1", ""),
        ("--difference 0.1 --from nowhere", "nowhere: no such run folder"),
        ("--difference 0.1 --from run --prompt-sd 0.1", "--prompt-sd works with --sd only"),
        ("--difference 0.1 --from run --comparisons a", "name two rows"),
        ("--difference 0.1 --from run --comparisons a:c", "unknown method in comparisons 'c'"),
    ):
        assert main(["power", *arguments.split()]) == (2 if words else 0)
        assert words in capsys.readouterr().err
    assert main("power --difference 0.1 --sd 0.1 --metric refusal_rate".split()) == 0
    assert "a difference of 0.1 in refusal" in capsys.readouterr().out
    alike = [replace(row, value=0.5) for row in read_results(run / "results.csv")]
    before = (run / "results.csv").read_text()
    write_results(run / "results.csv", alike)
    assert main("power --difference 0.1 --from run".split()) == 2
    assert "a - b in run: all seeds have the same value, so there is no spread to plan with" in capsys.readouterr().err
    listing(run / "results.csv").unlink()
    (run / "results.csv").write_text(before.replace("bad", "worse"))
    assert main("power --difference 0.1 --from run".split()) == 2
    assert "unknown task of run/results.csv 'worse'" in capsys.readouterr().err


def table(rng: np.random.Generator, organisms: int, seeds: int, *, between: float, shared: float) -> Any:
    luck = rng.normal(0, shared, (1, seeds)) + rng.normal(0, 0.1, (organisms, seeds))
    return rng.normal(0.05, between, (organisms, 1)) + luck


@pytest.mark.parametrize(("nested", "shared"), [(True, 0.0), (False, 0.2)])
def test_components_of_variance_are_found_again(nested: bool, shared: float) -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        values = table(rng, 12, 6, between=0.05, shared=shared)
        found.append(components(Sample(tuple(map(tuple, values.tolist())), (*range(6),), (False,) * 12, nested=nested)))
    within, between = (math.sqrt(np.mean(np.square(of))) for of in np.array(found, dtype=float).T)
    assert within == pytest.approx(math.hypot(0.1, shared), rel=0.1) and between == pytest.approx(0.05, rel=0.1)
    assert components(Sample(((0.1, 0.2, 0.3),), (0, 1, 2), (False,)))[1] is None


def test_what_organisms_detect_is_seen_as_often_as_power_says() -> None:
    spread = Spread(0.1, organisms=0.05)
    detectable = spread.detectable(12, 6, power_wanted=0.8, alpha=0.0125)
    rng = np.random.default_rng(1)
    draws = rng.normal(detectable, 0.05, (4000, 12)) + rng.normal(0, 0.1, (4000, 12, 6)).mean(axis=2)
    assert np.mean(stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.0125) == pytest.approx(0.8, abs=0.02)
    needed = spread.organisms_needed(detectable, 6, power_wanted=0.8, alpha=0.0125)
    assert needed == 12
    assert spread.organisms_needed(0.5, 6, power_wanted=0.8) == 5  # fewer are no sample of organisms
    assert Spread(0.1, organisms=0.5).organisms_needed(0.001, 6, power_wanted=0.8) is None


def test_organisms_of_a_run_are_counted(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three organisms with seeds of their own, in whose differences two components are planted."""
    results, parts = read_results(run / "results.csv"), {}
    for place, name in enumerate("xyz"):
        own = [
            replace(row, seed=1000 * place + (row.seed or 0), value=row.value + 0.05 * place * (row.method == "a"))
            for row in results
        ]
        write_results(run / name / "results.csv", own)
        parts[name] = Identity(contrasts=[["a", "b", "refusal_rate"], ["best", "rest"]])
    told: dict[str, Any] = dict.fromkeys(("run", "pair", "environment", "test_set", "budget", "version"), "t")
    Description(**told, date="2026-01-01", identity=Identity(parts=parts)).write(run / "run.json")
    assert main("power --difference 0.1 --from run".split()) == 0
    shown = capsys.readouterr().out
    between = (0.05**2 - 0.1**2 / 3) ** 0.5 if 0.05**2 > 0.1**2 / 3 else 0.0
    assert "To detect a difference of 0.1 in refusal." in shown and "on 6 degrees of freedom (a - b in run)" in shown
    assert f"between organisms: {between:.3f}." in shown and "2 declared comparisons" in shown
    lines = [line.split() for line in shown.splitlines() if "organisms" in line and "each" not in line]
    assert [line[0] for line in lines if line[1] == "organisms"] == ["5", "8", "12", "16", "24"]
    needed = Spread(0.1, organisms=between).organisms_needed(0.1, 6, power_wanted=0.8, alpha=0.025)
    assert [line[6] for line in lines if line[0] == "organisms"] == [str(needed)]
    assert main("power --difference 0.1 --from run --metric safety".split()) == 2
    assert "unknown metric 'safety'; did you mean safety_rate" in capsys.readouterr().err
    assert main("power --difference 0.05 --sd 0.1 --organism-sd 0.03 --n-comparisons 4".split()) == 0
    assert "organisms for 0.05" in capsys.readouterr().out
