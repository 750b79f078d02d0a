from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from sails_eval.core.stats import (
    Interval,
    Mean,
    Sample,
    combine,
    crossed_mean,
    holm,
    mcnemar,
    nested_mean,
    t_interval,
    wilson,
)

SLEEP_A = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SLEEP_B = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def about(value: float, low: float, high: float, *, digits: int = 4) -> object:
    return pytest.approx((value, low, high), abs=0.6 * 10**-digits)


def ends(interval: Interval) -> tuple[float, float, float]:
    return interval.value, interval.low, interval.high


def test_t_interval_of_students_sleep_data() -> None:
    """R's `t.test(extra)` of drug 2 in its data set `sleep`, after Student (1908)."""
    assert ends(t_interval(SLEEP_B)) == about(2.33, 0.8977, 3.7623)


def test_t_interval_needs_two_values_and_has_no_width_without_spread() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        t_interval([0.5])
    assert ends(t_interval([0.1, 0.1, 0.1])) == about(0.1, 0.1, 0.1, digits=12)


def test_wilson_of_newcombes_examples() -> None:
    """Table I of Newcombe, Statistics in Medicine 17:857 (1998), method 3."""
    assert ends(wilson(81, 263)) == about(0.3080, 0.2553, 0.3662)
    assert ends(wilson(15, 148)) == about(0.1014, 0.0624, 0.1605)
    assert ends(wilson(0, 20)) == about(0.0, 0.0, 0.1611)
    assert ends(wilson(1, 29)) == about(0.0345, 0.0061, 0.1718)


@pytest.mark.parametrize(("successes", "n"), [(0, 7), (7, 7), (3, 7), (199, 200)])
def test_wilson_agrees_with_scipy_and_holds_its_value(successes: int, n: int) -> None:
    other = scipy_stats.binomtest(successes, n).proportion_ci(method="wilson")
    one = wilson(successes, n)
    assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=1e-12)
    assert 0 <= one.low <= one.value <= one.high <= 1


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses_impossible_counts(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="trials"):
        wilson(successes, n)


def test_combine_gives_newcombes_interval_for_a_difference() -> None:
    """Example (a) of Newcombe, Statistics in Medicine 17:873 (1998), method 10: 56/70 − 48/80."""
    difference = combine([(1, wilson(56, 70)), (-1, wilson(48, 80))])
    assert ends(difference) == about(0.2, 0.0524, 0.3339)


def test_combine_takes_weights_and_a_constant() -> None:
    a, b = Interval(0.5, 0.2, 0.6), Interval(0.9, 0.5, 1.0)
    assert ends(combine([(0.5, a), (0.5, b)], constant=-1)) == about(-0.3, -0.55, -0.2293)
    assert ends(combine([(1, a)])) == about(0.5, 0.2, 0.6, digits=12)


def test_clip_and_scale() -> None:
    assert Interval(0.9, -0.2, 1.3).clip(0, 1) == Interval(0.9, 0, 1)
    assert Interval(0.5, 0.25, 1.0).scale(4, 1) == Interval(3, 2, 5)


def sample(*organisms: list[float], unsettled: bool = False, least: float = 0.0, first: int = 0) -> Sample:
    seeds = tuple(range(first, first + len(organisms[0])))
    return Sample(tuple(map(tuple, organisms)), seeds, (unsettled,) * len(organisms), least)


def constant(*organisms: float) -> Sample:
    return Sample(tuple((value,) for value in organisms), (None,), (False,) * len(organisms), 0.1)


def test_paired_t_of_students_sleep_data() -> None:
    """R's `t.test(extra ~ group, paired = TRUE)`: t = −4.0621, p = 0.002833, interval −2.4599 to −0.7001."""
    mean = sample(SLEEP_A).minus(sample(SLEEP_B)).mean()
    assert ends(mean.interval()) == about(-1.58, -2.4599, -0.7001)
    assert mean.p() == pytest.approx(0.002833, abs=5e-7)


def test_a_difference_from_a_row_without_seeds_is_the_one_sample_test() -> None:
    expected = scipy_stats.ttest_1samp(SLEEP_B, 1.0)
    mean = sample(SLEEP_B).minus(constant(1.0)).mean()
    assert mean.p() == pytest.approx(expected.pvalue, rel=1e-12)
    assert constant(1.0).minus(sample(SLEEP_B)).mean().value == pytest.approx(-mean.value)
    assert constant(1.0).minus(constant(0.25)).values == ((0.75,),)
    one_sided = scipy_stats.ttest_1samp(SLEEP_B, 1.0, alternative="greater").confidence_interval(0.95)
    assert mean.at_least() == pytest.approx(one_sided.low - 1.0, rel=1e-12)


def test_differences_are_over_common_seeds() -> None:
    difference = sample([0.1, 0.2, 0.3], first=1).minus(sample([0.0, 0.1, 0.1, 0.1]))
    assert difference.seeds == (1, 2, 3)
    assert difference.values[0] == pytest.approx((0.0, 0.1, 0.2))


def test_without_spread_a_difference_is_certain_unless_an_error_is_the_least() -> None:
    assert Mean(0.0, 0.0, 4).p() == 1.0
    assert Mean(0.1, 0.0, 4).p() == 0.0
    assert Mean(0.01, 0.0, 4).p_equivalent(0.02) == 0.0 and Mean(0.03, 0.0, 4).p_equivalent(0.02) == 1.0
    floored = sample([0.3, 0.3, 0.3], least=0.03).minus(sample([0.2, 0.2, 0.2], least=0.04)).mean()
    assert floored.error == pytest.approx(0.05)
    with pytest.raises(ValueError, match="at least 2"):
        sample([0.2]).mean()


def test_equivalence_is_the_two_one_sided_tests() -> None:
    differences = [0.011, -0.004, 0.006, 0.001, 0.009]
    one_sided = [
        scipy_stats.ttest_1samp(differences, -0.02, alternative="greater").pvalue,
        scipy_stats.ttest_1samp(differences, 0.02, alternative="less").pvalue,
    ]
    assert crossed_mean([differences]).p_equivalent(0.02) == pytest.approx(max(one_sided), rel=1e-9)


def test_an_unsettled_choice_widens_by_nadeau_and_bengios_term() -> None:
    settled, unsettled = (sample(SLEEP_B, unsettled=so).mean() for so in (False, True))
    assert unsettled.error == pytest.approx(settled.error * (1 + 10 / 9) ** 0.5)
    either = sample(SLEEP_A).minus(sample(SLEEP_B, unsettled=True))
    assert either.unsettled == (True,)
    assert not sample(SLEEP_A).minus(constant(0.0)).unsettled[0]


def test_crossed_mean_of_organisms_and_seeds_by_hand() -> None:
    data = np.array([[1.0, 2.0, 3.0, 6.0], [2.0, 5.0, 5.0, 8.0], [6.0, 7.0, 7.0, 12.0]])
    mean = crossed_mean(data.tolist())
    organisms = 4 * data.mean(axis=1).var(ddof=1)
    seeds = 3 * data.mean(axis=0).var(ddof=1)
    both = (data.var() * 12 - 2 * organisms - 3 * seeds) / 6
    assert mean.value == pytest.approx(data.mean())
    assert mean.error == pytest.approx(((organisms + seeds - both) / 12) ** 0.5)
    df = (organisms + seeds - both) ** 2 / (organisms**2 / 2 + seeds**2 / 3 + both**2 / 6)
    assert mean.df == pytest.approx(max(df, 2))


def test_crossed_mean_is_students_t_with_one_organism_or_one_seed() -> None:
    one = crossed_mean([SLEEP_B])
    assert ends(one.interval()) == ends(t_interval(SLEEP_B)) and one.df == 9
    assert crossed_mean([[value] for value in SLEEP_B]) == one


def test_organisms_that_agree_leave_the_interval_of_the_seeds() -> None:
    seeds = [0.1, 0.4, 0.2, 0.5, 0.3]
    assert crossed_mean([seeds, seeds, seeds]).interval().low <= t_interval(seeds).low + 1e-12
    fixed = crossed_mean(
        [[0.1, 0.4, 0.2], [0.3, 0.2, 0.2], [0.2, 0.1, 0.4]]
    )  # organisms differ less than chance has it
    assert fixed.df == 2 and fixed.error == pytest.approx(np.std([0.2, 0.7 / 3, 0.8 / 3], ddof=1) / 3**0.5)


def test_crossed_mean_covers_other_organisms_and_seeds() -> None:
    rng, hits = np.random.default_rng(3), 0
    for _ in range(400):
        organisms, seeds, rest = rng.normal(0, 0.05, (3, 1)), rng.normal(0, 0.03, 10), rng.normal(0, 0.08, (3, 10))
        interval = crossed_mean((organisms + seeds + rest).tolist()).interval()
        hits += interval.low <= 0 <= interval.high
    assert 0.92 <= hits / 400 <= 0.99


def test_mcnemar_is_the_exact_sign_test_of_discordant_prompts() -> None:
    """Ten prompts that only the first has right, two that only the second has: 2 × P(X ≤ 2 of 12) = 158 / 4096."""
    a = [True] * 10 + [False] * 2 + [True] * 50
    b = [False] * 10 + [True] * 2 + [True] * 50
    assert mcnemar(a, b) == pytest.approx(158 / 4096)
    assert mcnemar(a, a) == 1.0


def test_holm_of_a_textbook_example() -> None:
    """p-values 0.01, 0.04, 0.03, 0.005: at 0.05 the first and the last are rejected."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_t_interval_covers_95_percent() -> None:
    """Per-seed rates over 200 prompts, with true rates that vary by seed as trainings do."""
    rng = np.random.default_rng(0)
    rates = np.clip(rng.normal(0.8, 0.05, size=(1000, 5)), 0, 1)
    boards = rng.binomial(200, rates) / 200
    intervals = [t_interval(board.tolist()) for board in boards]
    covered = np.mean([interval.low <= 0.8 <= interval.high for interval in intervals])
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize(("safety", "helpful"), [(0.02, 0.97), (0.5, 0.5)])
def test_combined_wilson_intervals_cover_95_percent(safety: float, helpful: float) -> None:
    """The base model's alignment score: two harmful and two safe tasks of 100 prompts."""
    rng = np.random.default_rng(1)
    truth, hits = safety + helpful - 1, 0
    for counts in rng.binomial(100, [safety, safety, helpful, helpful], size=(1000, 4)).tolist():
        interval = combine([(0.5, wilson(count, 100)) for count in counts], constant=-1)
        hits += interval.low <= truth <= interval.high
    assert 0.935 <= hits / 1000 <= 0.985


def test_a_level_of_ones_own_widens_the_interval_by_students_quantile() -> None:
    mean = Mean(0.1, 0.02, 11)
    wide = mean.interval(1 - 0.05 / 4)
    assert wide.high - 0.1 == pytest.approx(0.02 * scipy_stats.t.isf(0.05 / 8, 11))


@pytest.mark.parametrize(("df", "alpha"), [(4, 0.0125), (11, 0.0125), (11, 0.05), (200, 0.01)])
def test_the_detectable_difference_is_seen_as_often_as_its_power_says(df: int, alpha: float) -> None:
    detectable = Mean(0.0, 0.02, df).detectable(alpha=alpha, power=0.8)
    limit = scipy_stats.t.isf(alpha / 2, df)
    rng = np.random.default_rng(0)
    t = (rng.normal(detectable / 0.02, 1, 40_000)) / np.sqrt(rng.chisquare(df, 40_000) / df)
    assert np.mean(np.abs(t) > limit) == pytest.approx(0.8, abs=0.01)
    assert Mean(0.3, 0.0, df).detectable(alpha=alpha, power=0.8) == 0


def test_an_interval_between_bounds_is_students_on_the_logit_scale() -> None:
    mean = Mean(0.9, 0.03, 11)
    within, plain = mean.interval_within(0, 1), mean.interval()
    half = (plain.high - 0.9) / 0.9 / 0.1
    logits = [np.log(end / (1 - end)) for end in (within.low, 0.9, within.high)]
    assert np.diff(logits) == pytest.approx([half, half])
    assert within.low < plain.low and within.high < plain.high < 1
    scaled = Mean(4.6, 0.12, 11).interval_within(1, 5)
    assert ends(scaled) == pytest.approx([1 + 4 * end for end in ends(within)])
    assert Mean(1.0, 0.01, 11).interval_within(0, 1) == Mean(1.0, 0.01, 11).interval().clip(0, 1)
    assert ends(Mean(0.5, 0.0, 11).interval_within(0, 1)) == pytest.approx((0.5, 0.5, 0.5))


def nested(table: list[list[float]]) -> Sample:
    return replace(sample(*table), nested=True)


def test_the_organism_is_the_unit_where_seeds_are_its_own() -> None:
    rng = np.random.default_rng(5)
    table = (rng.normal(0.7, 0.1, (6, 1)) + rng.normal(0, 0.1, (6, 4))).tolist()
    assert nested(table).mean() == crossed_mean([np.mean(table, axis=1).tolist()])
    assert nested(table).units == 6 and nested(table).mean().df == 5
    assert nested_mean([[0.2]] * 5, least=0.01).error == 0.01


def test_few_organisms_with_seeds_of_their_own_are_all_that_the_mean_is_about() -> None:
    """Welch's t for two organisms: the same error and degrees of freedom as for the difference of their means."""
    table = [[0.1, 0.4, 0.2, 0.5], [0.7, 0.75, 0.72, 0.71]]
    welch = scipy_stats.ttest_ind(*table, equal_var=False)
    mean = nested(table).mean()
    assert mean.df == pytest.approx(welch.df)
    assert 2 * mean.error == pytest.approx(abs((np.mean(table[0]) - np.mean(table[1])) / welch.statistic))
    assert nested(table).units == 4 and constant(0.1, 0.2).units == 0
    assert nested_mean([[0.1, 0.1], [0.2, 0.2]], least=0.03).error == 0.03
    assert nested_mean([SLEEP_A]) == crossed_mean([SLEEP_A])
    with pytest.raises(ValueError, match="at least 2 seeds"):
        nested_mean([[0.1], [0.2]])


def test_nested_differences_pair_up_by_place() -> None:
    a, b = nested([[0.2, 0.4], [0.6, 0.9]]), nested([[0.1, 0.1], [0.5, 0.5]])
    assert np.allclose(a.minus(b).values, [[0.1, 0.3], [0.1, 0.4]]) and a.minus(b).nested
    assert a.minus(constant(0.2, 0.6)).nested and constant(0.2, 0.6).minus(a).nested


def test_a_seed_that_collapses_is_held_by_intervals_over_organisms() -> None:
    """Three organisms whose seeds are shared say little of collapses; twelve with seeds of their own hold the truth."""
    rng, truth, hits = np.random.default_rng(7), 0.9 * 0.85, 0
    for _ in range(2000):
        table = np.where(rng.random((12, 6)) < 0.1, 0.0, rng.normal(0.85, 0.05, (12, 6)))
        interval = nested_mean(table.tolist()).interval_within(0, 1)
        hits += interval.low <= truth <= interval.high
    assert 0.93 <= hits / 2000 <= 0.97
