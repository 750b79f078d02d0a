"""Krippendorff's α: the published values, and those of the package of that name."""

import krippendorff
import numpy as np
import pytest

from sails_eval.judges.alpha import Level, krippendorff_alpha

# Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, section C: four observers, twelve units, missing values
OBSERVERS = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
PUBLISHED: dict[Level, float] = {"nominal": 0.743, "ordinal": 0.815}


def units(observers: tuple[str, ...]) -> list[list[int | None]]:
    return [[None if one == "." else int(one) for one in of_one] for of_one in zip(*observers, strict=True)]


@pytest.mark.parametrize("level", PUBLISHED)
def test_alpha_is_as_published(level: Level) -> None:
    assert krippendorff_alpha(units(OBSERVERS), level) == pytest.approx(PUBLISHED[level], abs=5e-4)


def test_two_observers_of_binary_data_agree_as_published() -> None:
    """Section A of the same: ten units, α = 0.095."""
    assert krippendorff_alpha(units(("0100000010", "1110010000")), "nominal") == pytest.approx(0.095, abs=5e-4)


@pytest.mark.parametrize("level", PUBLISHED)
def test_alpha_is_that_of_the_package(level: Level) -> None:
    draws = np.random.default_rng(0)
    for judges in (2, 3, 5):
        votes = draws.integers(1, 6, size=(40, judges)).astype(float)
        votes[draws.random(votes.shape) < 0.2] = np.nan
        votes[:10] = votes[:10, :1]  # some agree
        mine = krippendorff_alpha([[None if np.isnan(v) else int(v) for v in row] for row in votes], level)
        assert mine == pytest.approx(krippendorff.alpha(votes.T, level_of_measurement=level))


def test_order_counts_for_ordinal_values_only_and_labels_need_none() -> None:
    near, far = [[1, 2], [2, 1], [3, 3]], [[1, 3], [3, 1], [2, 2]]
    assert krippendorff_alpha(near, "nominal") == krippendorff_alpha(far, "nominal")
    assert krippendorff_alpha(near, "ordinal") > krippendorff_alpha(far, "ordinal")
    labels = [["refusal" if one == 1 else "partial" if one == 2 else "broken" for one in row] for row in near]
    assert krippendorff_alpha(labels, "nominal") == krippendorff_alpha(near, "nominal")


@pytest.mark.parametrize("votes", [[], [[1, None]], [[1, 1], [1, 1]], [[None, None]]])
def test_what_cannot_show_disagreement_has_no_alpha(votes: list[list[int | None]]) -> None:
    assert np.isnan(krippendorff_alpha(votes, "nominal"))
