"""What the protocol `confirm` plans: which seeds do what, which rates are tried, and which comparisons are declared."""

from dataclasses import replace
from itertools import combinations, pairwise
from math import nan
from pathlib import Path
from typing import Any

import pytest
import yaml

from sails_eval.boards.contrasts import Contrast, protocol_hash
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import digest
from sails_eval.core.paths import PACKAGE, bundled
from sails_eval.core.schema import read_mapping
from sails_eval.plan.plan import SubRun, Tuning
from sails_eval.plan.prepare import prepare
from sails_eval.plan.protocol import (
    BETWEEN,
    DECLARED,
    FIRST,
    Protocol,
    first_seed,
    parse_contrast,
    seeds_to_test,
    seeds_to_tune,
)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The testbed, and two more of its organisms, whose adapters are trained at twice its rates."""
    monkeypatch.chdir(tmp_path)
    for name, model in (("second", "testbed-b"), ("third", "testbed-c")):
        base = PACKAGE / "testbed" / "weights" / model / "base"
        Path(f"{name}.yaml").write_text(f"like: testbed\nmodel: {base}\nlearning_rate_scale: {{sft: 40}}\n")
    return "testbed,second.yaml,third.yaml"


def planned(pair: str, **asked: Any) -> tuple[SubRun, ...]:
    methods = ("sails", "lora", "random-orthonormal")
    return prepare(
        CompareConfig(**{"pair": pair, "protocol": "confirm", "methods": methods, "seeds": 6, **asked})
    ).sub_runs


def test_no_number_is_shared_between_organisms_or_with_tuning(pair: str) -> None:
    """Before, every organism drew the same training samples, so that their results hung together."""
    of = [[seeds_to_test(7, k, 500), seeds_to_tune(7, k, 500)] for k in range(30)]
    assert not any(set(a) & set(b) for a, b in combinations([seeds for both in of for seeds in both], 2))
    sub_runs = planned(pair)
    first = sub_runs[0].seeds[0]
    assert [one.seeds for one in sub_runs] == [seeds_to_test(first, k, 6) for k in range(3)]
    assert [one.validated_seeds for one in sub_runs] == [seeds_to_tune(first, k, 2) for k in range(3)]
    explored = planned(pair, protocol="explore")
    assert {one.seeds for one in explored} == {one.validated_seeds for one in explored} == {tuple(range(6))}


@pytest.mark.slow
def test_what_is_declared_otherwise_has_seeds_that_nobody_has_seen(pair: str) -> None:
    asked: list[dict[str, Any]] = [
        {},
        {"comparisons": ("lora:sails@harm_score",)},
        {"methods": ("sails", "lora")},
        {"limit": 5},
        {"steps": (10,)},
        {"seeds": 5},
    ]
    firsts = [planned(pair, **more)[0].seeds[0] for more in asked]
    Path("moved").mkdir()
    lora = yaml.safe_load((bundled("adapters") / "lora.yaml").read_text())
    lora["learning_rate"] = {
        end: 2 * rate for end, rate in lora["learning_rate"].items()
    }  # as somebody may who has seen a board: the same seeds would be no fresh ones
    Path("moved/lora.yaml").write_text(yaml.safe_dump(lora))
    moved = planned(pair, methods=("sails", "moved/lora.yaml"))[0]
    assert moved.seeds[0] not in firsts and moved.protocol
    assert moved.protocol.grids["lora"][-1] == pytest.approx(8e-4 * 2 * 20)
    assert len(set(firsts)) == len(asked) and min(firsts) >= 10_000_000
    assert planned(pair, jobs=2, out=Path("elsewhere"))[0].seeds[0] == firsts[0]
    protocols = [planned(pair, **more)[0].protocol for more in asked]
    assert len({one.fingerprint for one in protocols if one}) == len(asked)
    assert protocols[0] and protocols[0].judge == "testbed" and protocols[0].budgets == ("128 examples, 20500 tokens",)


def test_one_model_is_not_several_organisms(pair: str) -> None:
    Path("again.yaml").write_text("like: testbed\n")
    with pytest.raises(UserError, match="pair 'again': has the same model as 'testbed'"):
        planned(f"{pair},again.yaml")
    assert len(planned(f"{pair},again.yaml", protocol="explore")) == 4


def test_every_method_has_as_many_trials_and_one_rate_is_tested(pair: str) -> None:
    first, second, _ = planned(pair)
    lora = next(recipe for recipe in first.recipes if recipe.name == "lora")
    assert [round(b / a, 2) for a, b in pairwise(first.grid(lora))] == [2, 2, 2]
    assert len(first.cells(lora)) == 4 * 2 and {cell.seed for cell in first.cells(lora)} == {*first.validated_seeds}
    grid = {0.0: nan, 1.0: 0.9, 2.0: 0.9, 3.0: 0.3}
    on_grid = replace(first, tuning=Tuning(first.validated_seeds, {"lora": grid}))
    assert on_grid.tuned(lora) is None and len(on_grid.cells(lora)) == 6 * 2
    scores = {"lora": {**grid, 0.5: 0.5, 1.5: 0.95}}  # ties go to the lower
    for one, scale in ((first, 1), (second, 2)):
        tuned = replace(one, tuning=Tuning(one.validated_seeds, scores))
        choice = tuned.tuned(lora)
        assert choice and choice.settled and not choice.edge
        assert choice.learning_rate == pytest.approx(2**1.5 * tuned.grid(lora)[0], rel=5e-3)
        tested = [cell for cell in tuned.cells(lora) if cell.seed in one.seeds]
        assert {cell.learning_rate for cell in tested} == {choice.learning_rate} and len(tested) == 6
        assert tuned.trials == 6 == len(choice.scores) and len(tuned.cells(lora)) == 6 * 2 + 6
        assert tuned.grid(lora)[0] == pytest.approx(scale * first.grid(lora)[0], rel=5e-3)


def test_the_best_at_the_edge_of_its_grid_is_looked_for_beyond_and_told(pair: str) -> None:
    first = planned("testbed")[0]
    lora = next(recipe for recipe in first.recipes if recipe.name == "lora")
    grid = {0.0: 0.1, 1.0: 0.2, 2.0: 0.3, 3.0: 0.6}
    for beyond, edge in ((0.5, False), (0.7, True)):
        scores = {"lora": {**grid, 2.5: 0.5, 3.5: beyond}}
        choice = replace(first, tuning=Tuning(first.validated_seeds, scores)).tuned(lora)
        assert choice and choice.edge is edge
    alone = planned("testbed", learning_rates=1)[0]
    assert alone.trials == 1
    tuned = replace(alone, tuning=Tuning(alone.validated_seeds, {"lora": {0.0: 0.3}})).tuned(lora)
    assert tuned and tuned.learning_rate == alone.grid(lora)[0]


def test_best_is_the_method_that_scores_best_in_tuning() -> None:
    scores = {"a": {0.0: 0.5, 1.0: nan}, "b": {0.0: 0.2, 1.0: 0.7}, "c": {0.0: 0.7, 1.0: 0.1}}
    assert Tuning((0,), scores).best == "b"  # of equal ones the first


def test_few_comparisons_are_declared_and_what_is_not_there_is_told(pair: str) -> None:
    protocol = prepare(
        CompareConfig(pair=pair, protocol="confirm", methods=("lora", "sails", "random-orthonormal"))
    ).protocol
    assert protocol is not None
    assert list(map(str, protocol.declared)) == [
        "sails:random-orthonormal@refusal_rate",
        "sails:lora@refusal_rate",
        "best:rest@alignment_score",
    ]
    assert protocol.left_out == ("sails:activation-svd-r@refusal_rate", "sails:lora-equal-labels@refusal_rate")
    assert protocol.design("lora").contrasts[-1].rivals == ("sails", "random-orthonormal")
    alone = prepare(CompareConfig(pair="testbed", protocol="confirm", methods=("lora",))).protocol
    assert alone is not None and alone.comparisons == () and len(alone.left_out) == 5
    own = prepare(
        CompareConfig(pair="testbed", protocol="confirm", comparisons=("lora:full@helpfulness", "sails:base"))
    )
    assert own.protocol and own.protocol.comparisons == ("lora:full@helpfulness", "sails:base@refusal_rate")
    assert own.protocol.left_out == ()


def test_the_protocol_is_part_of_the_runs_identity(pair: str) -> None:
    first, second, _ = planned(pair)
    assert first.identity.protocol == second.identity.protocol == first.protocol.fingerprint  # type: ignore[union-attr]
    other = planned(pair, comparisons=("sails:lora",))[0]
    assert "protocol" in first.identity.differences(other.identity)
    assert "protocol" not in planned(pair, protocol="explore")[0].identity.told()


def test_a_protocol_is_read_back_and_compared(pair: str, tmp_path: Path) -> None:
    protocol = planned(pair)[0].protocol
    assert protocol is not None
    protocol.write(tmp_path / "protocol.yaml")
    kept = Protocol.read(tmp_path / "protocol.yaml")
    assert kept == protocol and kept.fingerprint == protocol.fingerprint
    protocol.check_same(kept, "p")
    with pytest.raises(UserError, match=r"^p: this protocol was fixed before the test, .* differ in alpha, margin;"):
        protocol.check_same(kept.model_copy(update={"margin": 0.1, "alpha": 0.1}), "p")


def test_protocols_by_the_earlier_name_of_comparisons_keep_their_hashes(tmp_path: Path) -> None:
    """The key was `contrasts`: boards name protocols by their hashes, and seeds are drawn by what is declared."""
    published = sorted(bundled("leaderboards").glob("*-protocol-*.yaml"))
    assert all(path.stem.endswith(f"-{Protocol.read(path).fingerprint}") for path in published)
    of_old = [path for path in published if "contrasts" in read_mapping(path)]
    assert len(of_old) >= 2
    for path in of_old:
        protocol = Protocol.read(path)
        now = {"comparisons" if key == "contrasts" else key: value for key, value in read_mapping(path).items()}
        assert Protocol.model_validate(now) == protocol and protocol_hash(now) == protocol.fingerprint
        protocol.write(tmp_path / "protocol.yaml")
        written = read_mapping(tmp_path / "protocol.yaml")
        assert written["comparisons"] == list(protocol.comparisons) and "contrasts" not in written
    config = CompareConfig(comparisons=("sails:lora",))
    told = config.model_dump(mode="json", include=DECLARED)
    earlier = {"contrasts" if key == "comparisons" else key: value for key, value in told.items()}
    seed = int(digest([{}, ["testbed"], earlier])[:8], 16) % 9_000 * BETWEEN + FIRST
    assert earlier["contrasts"] == ["sails:lora"] and first_seed(config, []) == seed


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"protocol": "explore", "tuning_seeds": 2}, "--tuning-seeds needs --protocol confirm"),
        ({"checkpoints": 2}, "--checkpoints"),
        ({"seeds": 501}, "at most 500"),
        ({"methods": ("lora",), "comparisons": ("best:rest",)}, "two methods that train"),
        ({"comparisons": ("sails:lora@safety",)}, "unknown metric in comparisons 'safety'; did you mean safety_rate"),
    ],
)
def test_what_a_confirmation_cannot_have_is_an_error(asked: dict[str, Any], told: str, pair: str) -> None:
    with pytest.raises(UserError, match=told):
        planned("testbed", **asked)


def test_comparisons_are_written_as_they_are_read() -> None:
    assert parse_contrast("a:b", "refusal_rate") == Contrast("a", "b", "refusal_rate")
    assert parse_contrast("best:rest", "refusal_rate").endpoint == "alignment_score"
    for text in ("a:b@helpfulness", "best:rest@refusal_rate"):
        assert str(parse_contrast(text, "refusal_rate")) == text
    for text in ("a", "a:b:c", "a:b@", "@x", ":b", "a:b@c@d"):
        with pytest.raises(UserError, match="does not have the form A:B or A:B@METRIC"):
            parse_contrast(text, "refusal_rate")
