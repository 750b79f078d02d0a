"""Prediction-powered inference: on simulated runs of known truth, with a judge that errs to one side."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sails_eval.analyses.audit.prediction_powered import Stratum, corrected
from sails_eval.core.stats import wilson


def draw(
    weights: np.ndarray, judge: np.ndarray, people: np.ndarray, *, n: int, random: np.random.Generator
) -> list[Stratum]:
    """A stratified sample of the answers, of at most `n` from every stratum."""
    strata = []
    for said in np.unique(judge):
        at = np.flatnonzero(judge == said)
        chosen = random.choice(at, min(n, len(at)), replace=False)
        sample = tuple((float(weights[i]), float(people[i])) for i in chosen)
        strata.append(Stratum(len(at), float(weights[at].sum()), sample))
    return strata


@pytest.mark.parametrize("n", [20, 60])
def test_corrected_rates_cover_the_truth_and_raw_ones_do_not(n: int) -> None:
    random = np.random.default_rng(7)
    hits = {"corrected": 0, "raw": 0}
    for _ in range(400):
        # two tasks of unlike length; the judge calls a quarter of the unsafe answers safe, and scores in five steps
        weights = np.repeat([0.5 / 300, 0.5 / 700], [300, 700])
        people = random.random(1000) < np.repeat([0.7, 0.5], [300, 700])
        fooled = ~people & (random.random(1000) < 0.25)
        judge = np.where(people | fooled, random.integers(1, 3, 1000), random.integers(3, 6, 1000))
        truth = float(weights @ people)
        found = corrected(draw(weights, judge, people, n=n, random=random))
        hits["corrected"] += found.low <= truth <= found.high
        raw = wilson(float((judge <= 2).sum()), 1000)
        hits["raw"] += raw.low <= truth <= raw.high
    assert 0.92 <= hits["corrected"] / 400 <= 0.995
    assert hits["raw"] / 400 < 0.05


def test_the_estimate_is_the_judges_mean_plus_what_people_found_otherwise() -> None:
    random = np.random.default_rng(3)
    weights = random.random(200)
    weights /= weights.sum()
    judge = random.integers(0, 2, 200).astype(float)
    people = np.where(random.random(200) < 0.2, 1 - judge, judge)
    strata = draw(weights, judge, people, n=30, random=random)
    difference = sum(
        one.weight * sum(w * (y - f) for w, y in one.sample) / sum(w for w, _ in one.sample)
        for f, one in zip((0.0, 1.0), strata, strict=True)
    )
    assert corrected(strata).value == pytest.approx(float(weights @ judge) + difference)


def test_labelling_everything_leaves_no_doubt() -> None:
    found = corrected([Stratum(2, 0.4, ((0.1, 1.0), (0.3, 0.0))), Stratum(1, 0.6, ((0.6, 1.0),))])
    assert found.value == found.low == found.high == pytest.approx(0.7)


def test_agreement_throughout_a_sample_is_no_certainty() -> None:
    found = corrected([Stratum(1000, 1.0, ((0.001, 1.0),) * 20)])
    assert found.value == found.high == 1 and 0.8 < found.low < 0.9


def test_grades_are_brought_to_their_scale() -> None:
    found = corrected([Stratum(4, 1.0, ((0.25, 0.5), (0.25, 0.5)))], low=1, span=4)
    assert found.value == 3 and 1 <= found.low < 3 < found.high and math.isclose(3 - found.low, found.high - 3)
