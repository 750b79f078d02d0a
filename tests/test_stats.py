import numpy as np
import pytest
from scipy import stats as scipy_stats

from sails_eval.stats import Interval, combine, holm, paired_t, t_interval, wilson

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


def test_paired_t_of_students_sleep_data() -> None:
    """R's `t.test(extra ~ group, paired = TRUE)`: t = −4.0621, p = 0.002833, interval −2.4599 to −0.7001."""
    contrast = paired_t(SLEEP_A, SLEEP_B)
    assert ends(contrast.difference) == about(-1.58, -2.4599, -0.7001)
    assert contrast.p == pytest.approx(0.002833, abs=5e-7)


def test_paired_t_against_a_constant_is_the_one_sample_test() -> None:
    expected = scipy_stats.ttest_1samp(SLEEP_B, 1.0).pvalue
    assert paired_t(SLEEP_B, [1.0] * 10).p == pytest.approx(expected, rel=1e-12)


def test_paired_t_without_spread() -> None:
    assert paired_t([0.2, 0.4], [0.2, 0.4]).p == 1.0
    assert paired_t([0.3, 0.4, 0.5], [0.2, 0.3, 0.4]).p == 0.0
    with pytest.raises(ValueError, match="at least 2"):
        paired_t([0.2], [0.4])
    with pytest.raises(ValueError, match="shorter"):
        paired_t([0.2, 0.3], [0.4])


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


def test_holm_over_paired_t_keeps_false_wins_at_5_percent() -> None:
    rng = np.random.default_rng(2)
    false_wins = 0
    for board in rng.normal(0, 1, size=(400, 3, 5)):
        pvalues = [paired_t(board[i].tolist(), board[j].tolist()).p for i, j in ((0, 1), (0, 2), (1, 2))]
        false_wins += min(holm(pvalues)) < 0.05
    assert false_wins / 400 <= 0.07
