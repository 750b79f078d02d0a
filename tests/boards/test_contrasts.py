import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from sails_eval.boards.contrasts import (
    Contrast,
    Design,
    Samples,
    check_contrasts,
    compare,
    compare_secondary,
    default_contrasts,
    partners,
)
from sails_eval.boards.table import EQUIVALENCE_MARGIN
from sails_eval.core.errors import UserError
from sails_eval.core.stats import Mean, Sample, crossed_mean, holm

SAILS = (0.80, 0.82, 0.84, 0.81, 0.83)
LORA = (0.92, 0.70, 0.94, 0.69, 0.85)  # sails on average, up to noise
NEAR = (0.802, 0.818, 0.841, 0.812, 0.829)  # sails on average, up to very little
FULL = (0.71, 0.735, 0.745, 0.70, 0.74)


def sample(*organisms: tuple[float, ...]) -> Sample:
    seeds = tuple(range(len(organisms[0]))) if len(organisms[0]) > 1 else (None,)
    return Sample(organisms, seeds, (False,) * len(organisms))


SAMPLES = {
    "lora": sample(LORA),
    "sails": sample(SAILS),
    "full": sample(FULL),
    "near": sample(NEAR),
    "base": sample((0.1,)),
}


def of(samples: Mapping[str, Sample]) -> Samples:
    """The same values in every metric."""
    return lambda method, _metric: samples[method]


def pairs(*names: str) -> list[Contrast]:
    return [Contrast(name.partition(":")[0], name.partition(":")[2]) for name in names]


def test_sails_or_else_the_first_method_is_contrasted_with_every_row() -> None:
    assert default_contrasts(["lora", "sails", "base"]) == tuple(pairs("sails:lora", "sails:base"))
    assert default_contrasts(["lora", "full", "base"]) == tuple(pairs("lora:full", "lora:base"))
    assert default_contrasts(["base"]) == default_contrasts([]) == ()


@pytest.mark.parametrize(
    ("contrasts", "words"),
    [
        (pairs("sails:lroa"), "unknown method in comparisons 'lroa'; did you mean lora"),
        (pairs("sails:sails"), "two different rows"),
        (pairs("sails:lora", "lora:sails"), "each pair once"),
        ([Contrast("sails", "lora", "safety")], "unknown metric in comparisons 'safety'; did you mean safety_rate"),
    ],
)
def test_contrasts_that_make_no_sense_are_refused(contrasts: list[Contrast], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_contrasts(contrasts, SAMPLES)


def test_only_declared_contrasts_distinguish_after_holm() -> None:
    compared = compare(of(SAMPLES), default_contrasts(list(SAMPLES)))
    assert [one.b for one in compared] == ["lora", "full", "near", "base"]
    alone = [crossed_mean([[a - b for a, b in zip(SAILS, other, strict=True)]]) for other in (LORA, FULL, NEAR)]
    alone.append(crossed_mean([[a - 0.1 for a in SAILS]]))
    assert [one.p for one in compared] == pytest.approx(holm([mean.p() for mean in alone]))
    assert [one.p_equivalent for one in compared] == pytest.approx(
        holm([mean.p_equivalent(EQUIVALENCE_MARGIN) for mean in alone])
    )
    assert partners(compared, "sails", lambda one: not one.distinguished) == ["lora", "near"]
    assert partners(compared, "sails", lambda one: one.equivalent) == ["near"]  # no difference shown is not equality
    assert partners(compared, "near", lambda one: one.equivalent) == ["sails"]
    assert partners(compared, "full", lambda one: not one.distinguished) == []


def test_too_few_seeds_and_missing_values_are_not_tested() -> None:
    short = {"a": sample(SAILS[:4]), "b": sample(LORA[:4]), "c": sample((*LORA[:4], math.nan)), "base": sample((0.1,))}
    assert compare(of(short), pairs("a:b", "a:c", "c:base", "a:base")) == []
    assert len(compare(of(short), pairs("a:b"), min_units=2)) == 1


def test_a_contrast_says_what_it_found_and_where() -> None:
    [one] = compare(of(SAMPLES), pairs("full:sails"))
    assert str(one).startswith("full - sails, alignment score: -0.094 [-0.10") and str(one).endswith("], p < 0.001")
    [several] = compare(of({"a": sample(SAILS, FULL, NEAR), "b": sample(FULL, SAILS, FULL)}), pairs("a:b"))
    assert several.by_organism == pytest.approx((0.094, -0.094, 0.0944))
    assert str(several).endswith(", same sign on 2 of 3 organisms") and not several.distinguished


def test_intervals_agree_in_kind_with_adjusted_p_values() -> None:
    """Before, a contrast could have an interval without 0 beside p > 0.05: one was adjusted, the other not."""
    rng = np.random.default_rng(2)
    rows = {name: sample(tuple(rng.normal(0.05 * (name == "a"), 0.05, 8))) for name in "abcdef"}
    declared = pairs("a:b", "a:c", "a:d", "a:e", "a:f")
    compared = compare(of(rows), declared)
    for one in compared:
        alone = rows["a"].minus(rows[one.b]).mean()
        assert one.difference == alone.interval(1 - 0.05 / 5).clip(-2, 2)
        if 5 * alone.p() > 0.05:
            assert one.difference.low < 0 < one.difference.high
        assert one.detectable == alone.detectable(alpha=0.05 / 5, power=0.8)
    assert any(alone.interval().low > 0 and one.p > 0.05 for one in compared
               for alone in [rows["a"].minus(rows[one.b]).mean()])  # fmt: skip
    told = str(next(one for one in compared if not one.distinguished))
    assert "not distinguished (this design could have detected 0." in told


def test_best_has_to_beat_every_other_row() -> None:
    third = sample(tuple(x - 0.2 for x in SAILS))
    rows = {"sails": sample(SAILS), "full": sample(FULL), "near": sample(NEAR), "third": third}
    best = Contrast("best", "rest")
    assert best.of_best and best.about("sails", ["full", "sails", "third"]).rivals == ("full", "third")
    [won] = compare(of(rows), [best.about("sails", ["sails", "full", "third"])])
    assert won.b == "full" and won.distinguished and won.p == rows["sails"].minus(rows["full"]).mean().p()
    assert str(won).startswith("sails (best on tuning) - all other trained rows, of which the nearest is full, align")
    [tied] = compare(of(rows), [best.about("sails", list(rows))])
    assert tied.b == "near" and not tied.distinguished and not tied.equivalent
    [behind] = compare(of(rows), [best.about("third", list(rows))])
    assert behind.p == 1 and not behind.distinguished  # to lose surely is no win


def test_of_several_equal_rows_the_best_one_seldom_wins_even_if_it_is_picked_on_the_test() -> None:
    rng, wins = np.random.default_rng(0), 0
    for _ in range(1000):
        rows = {name: sample(tuple(rng.normal(0, 0.1, 8))) for name in "abc"}
        best = max(rows, key=lambda name: rows[name].mean().value)
        [found] = compare(of(rows), [Contrast("best", "rest").about(best, list(rows))])
        wins += found.distinguished
    assert wins <= 60


@pytest.mark.parametrize("rivals", [1, 4, 8])
def test_what_could_have_been_seen_of_all_rivals_is_seen_and_the_least_difference_is_covered(rivals: int) -> None:
    rng, names = np.random.default_rng(rivals), [f"r{i}" for i in range(rivals)]
    ahead = Mean(0.0, 0.03 / 12**0.5, 11).detectable(alpha=0.05, power=1 - 0.2 / rivals)
    covered, wins, seen = 0, 0, []
    for _ in range(400):
        [found] = compare(of(_equally_far(rng, names, ahead)), [_best(names)])
        covered += found.difference.low <= ahead <= found.difference.high
        wins += found.distinguished
        seen.append(found.detectable)
        assert found.distinguished == (found.difference.low > 0)
    assert covered / 400 >= 0.94 and wins / 400 >= 0.76
    assert ahead * 0.9 <= sum(seen) / 400 <= ahead * 1.5  # of the rival with the largest error


def _best(names: list[str]) -> Contrast:
    return Contrast("best", "rest").about("won", ["won", *names])


def _equally_far(rng: np.random.Generator, names: list[str], ahead: float) -> dict[str, Sample]:
    """A row that is ahead of all others by as much, on twelve organisms of one seed."""
    rows = {name: rng.normal(0, 0.03 / 2**0.5, 12) for name in ["won", *names]}
    rows["won"] = rows["won"] + ahead
    return {
        name: Sample(tuple((x,) for x in values), (0,), (False,) * 12, nested=True) for name, values in rows.items()
    }


def test_secondary_endpoints_are_families_of_their_own() -> None:
    declared = (
        Contrast("sails", "lora", "safety_rate"),
        Contrast("sails", "full"),
        Contrast("near", "rest", rivals=("lora",)),
    )
    found = compare_secondary(of(SAMPLES), Design(declared, ("alignment_score", "harm_score")))
    assert [(one.a, one.b, one.contrast.endpoint) for one in found] == [
        ("sails", "lora", "alignment_score"),
        ("sails", "lora", "harm_score"),
        ("sails", "full", "harm_score"),
    ]
    alone = SAMPLES["sails"].minus(SAMPLES["full"]).mean()
    assert found[0].p == SAMPLES["sails"].minus(SAMPLES["lora"]).mean().p()
    assert found[2].difference == alone.interval(1 - 0.05 / 2)


def test_organisms_with_seeds_of_their_own_are_what_is_counted() -> None:
    rng = np.random.default_rng(1)
    rows = {
        name: replace(sample(*(tuple(rng.normal(0.5, 0.1, 2)) for _ in range(6))), nested=True) for name in ("a", "b")
    }
    [one] = compare(of(rows), pairs("a:b"))
    assert one.p == rows["a"].minus(rows["b"]).mean().p() and len(one.by_organism) == 6
