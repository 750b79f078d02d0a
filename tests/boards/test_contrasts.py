import math

import pytest

from sails_eval.boards.contrasts import check_contrasts, compare, default_contrasts, partners
from sails_eval.boards.table import EQUIVALENCE_MARGIN
from sails_eval.core.errors import UserError
from sails_eval.core.stats import Sample, crossed_mean, holm

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


def test_sails_or_else_the_first_method_is_contrasted_with_every_row() -> None:
    assert default_contrasts(["lora", "sails", "base"]) == (("sails", "lora"), ("sails", "base"))
    assert default_contrasts(["lora", "full", "base"]) == (("lora", "full"), ("lora", "base"))
    assert default_contrasts(["base"]) == default_contrasts([]) == ()


@pytest.mark.parametrize(
    ("contrasts", "words"),
    [
        ([("sails", "lroa")], "unknown method in contrasts 'lroa'; did you mean lora"),
        ([("sails", "sails")], "two different rows"),
        ([("sails", "lora"), ("lora", "sails")], "each pair once"),
    ],
)
def test_contrasts_that_make_no_sense_are_refused(contrasts: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_contrasts(contrasts, SAMPLES)


def test_only_declared_contrasts_distinguish_after_holm() -> None:
    compared = compare(SAMPLES, default_contrasts(list(SAMPLES)))
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
    assert compare(short, [("a", "b"), ("a", "c"), ("c", "base"), ("a", "base")]) == []
    assert len(compare(short, [("a", "b")], min_seeds=2)) == 1


def test_a_contrast_says_what_it_found_and_where() -> None:
    [one] = compare(SAMPLES, [("full", "sails")])
    assert str(one).startswith("full - sails: -0.094 [-0.10") and str(one).endswith("], p < 0.001")
    [several] = compare({"a": sample(SAILS, FULL, NEAR), "b": sample(FULL, SAILS, FULL)}, [("a", "b")])
    assert several.by_organism == pytest.approx((0.094, -0.094, 0.0944))
    assert str(several).endswith(", same sign on 2 of 3 organisms") and not several.distinguished
