import pytest

from sails_eval.boards.rate_choice import Choice, choose
from sails_eval.core.errors import UserError

NAN = float("nan")


def test_a_seeds_own_luck_has_no_part_in_the_choice_of_its_rate() -> None:
    choice = choose(
        "lora", {1e-3: {0: 0.5, 1: 0.5, 2: 0.5}, 1e-2: {0: 0.9, 1: 0.4, 2: 0.4}}
    )  # seed 0 alone favours 1e-2
    assert choice.learning_rate == 1e-2
    assert choice.left_out == ((0, 1e-3), (1, 1e-2), (2, 1e-2))
    assert choice.contenders == (1e-2, 1e-3) and not choice.settled
    assert [choice.rate_of(seed) for seed in (0, 1, 2)] == [1e-3, 1e-2, 1e-2]
    assert choice.warnings == [
        "only two learning rates were tried, so a better one may lie elsewhere",
        "the choice of the learning rate depends on single seeds (0.01, 0.001)",
    ]


def test_where_all_agree_nothing_hangs_on_a_seed() -> None:
    choice = choose("lora", {1e-4: {0: 0.1, 1: 0.2}, 1e-3: {0: 0.8, 1: 0.7}, 1e-2: {0: 0.3, 1: 0.3}})
    assert choice.contenders == (1e-3,) and choice.settled
    assert choice.scores == ((1e-4, 0.15), (1e-3, 0.75), (1e-2, 0.3))


def test_ties_go_to_the_lower_rate_without_a_seed_too() -> None:
    choice = choose("lora", {1e-3: {0: 0.1, 1: 0.3, 2: 0.2}, 1e-2: {0: 0.2, 1: 0.1, 2: 0.3}})
    assert choice.learning_rate == 1e-3
    assert dict(choice.left_out) == {0: 1e-3, 1: 1e-2, 2: 1e-3}


def test_a_single_seed_leaves_nothing_out_and_an_incomplete_rate_never_contends() -> None:
    assert choose("lora", {1e-3: {0: 0.1}, 1e-2: {0: 0.2}}) == Choice("lora", 1e-2, ((1e-3, 0.1), (1e-2, 0.2)))
    lacking = choose("lora", {1e-3: {0: 0.1, 1: 0.1, 2: 0.1}, 1e-2: {0: 0.9, 1: 0.9}})  # complete without seed 2
    assert lacking.contenders == (1e-3,)
    with pytest.raises(UserError, match="lora: no learning rate"):
        choose("lora", {1e-3: {0: NAN, 1: 0.1}})


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ((0.15, 0.75, 0.3), True),  # both neighbours are far below
        ((0.15, 0.75, 0.5), False),
        ((0.5, 0.75, 0.3), False),
        ((0.1, 0.1, 0.75), False),  # at the edge, which has a warning of its own
        ((0.1, 0.75), False),
    ],
)
def test_a_rate_far_above_both_neighbours_says_that_the_grid_is_coarse(scores: tuple[float, ...], told: bool) -> None:
    choice = choose("lora", {10.0**place: {0: score, 1: score} for place, score in enumerate(scores)})
    assert choice.coarse == told and any("a finer grid" in warning for warning in choice.warnings) == told
