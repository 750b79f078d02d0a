"""Organisms beyond those that ship: named, made once, kept with their pairs, and made anew when the recipe changes."""

from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.files import read_json, write_json
from sails_eval.core.pair import load_pair, organisms_made
from sails_eval.core.pair import organisms as names_of
from sails_eval.testbed import base_model, build, organisms


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAILS_EVAL_CACHE", str(tmp_path))
    return organisms_made()


def test_organisms_have_seeds_of_their_own() -> None:
    named = names_of(12)
    assert (len(named), named[:4], named[-1]) == (12, (*build.ORGANISMS, "testbed-d"), "testbed-l")
    further = organisms.seeds_of(12, 4)
    assert further == {f"testbed-{'defghijkl'[i]}": 3 + i for i in range(9)} | {
        f"testbed-v{i + 1}": 1001 + i for i in range(4)
    }
    assert not set(further.values()) & set(build.ORGANISMS.values())


def test_an_organism_that_is_not_made_says_how_to_make_it() -> None:
    with pytest.raises(
        UserError, match="'testbed-d': this organism does not exist yet; make it: sails-eval testbed build"
    ):
        load_pair("testbed-d")
    with pytest.raises(UserError, match="pair"):
        load_pair("testbad-d")


def _fake_build(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A build that trains nothing, in this process."""
    made: list[str] = []

    def base(folder: Path, *, seed: int) -> dict[str, Any]:
        made.append(f"base of seed {seed}")
        folder.mkdir(parents=True)
        return {"harm_probe": 0.9}

    def saes(folder: Path, qualities: list[str]) -> dict[str, Any]:
        return {"good": {}}

    class Here:
        def __init__(self, jobs: int) -> None: ...

        def __enter__(self) -> "Here":
            return self

        def __exit__(self, *args: object) -> None: ...

        def map(self, function: Any, items: Any, *, title: str, done: Any) -> None:
            for item in items:
                function(item)
                done(item)

    monkeypatch.setattr(base_model, "build_base", base)
    monkeypatch.setattr(build, "build_saes", saes)
    monkeypatch.setattr(organisms, "workers", Here)
    return made


def test_they_are_made_once_and_their_pairs_are_found(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    made = _fake_build(monkeypatch)
    organisms.build_organisms(5, validation=1)
    organisms.build_organisms(5, validation=1)
    assert made == ["base of seed 3", "base of seed 4", "base of seed 1001"]
    pair, shipped = load_pair("testbed-d"), load_pair("testbed")
    assert pair.model == str(cache / "testbed-d" / "base")
    assert [sae.path for sae in pair.saes] == [cache / "testbed-d" / "sae" / "good" / f"layer_{i}" for i in range(4)]
    (one,) = pair.sae_sources("one")
    assert one == pair.saes[1]
    assert all((own := load_pair(name)).sae_sources("one") == (own.saes[1],) for name in build.ORGANISMS)
    assert (pair.tasks, pair.train, pair.judge) == (shipped.tasks, shipped.train, shipped.judge)
    assert load_pair("testbed-v1").name == "testbed-v1"


def test_one_that_was_made_by_another_recipe_is_made_anew(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    made = _fake_build(monkeypatch)
    organisms.build_organisms(4)
    card = read_json(cache / "testbed-d" / "card.json")
    write_json(cache / "testbed-d" / "card.json", card | {"sources": "of another grammar"})
    organisms.build_organisms(4)
    assert made == ["base of seed 3"] * 2


def test_one_that_is_not_what_it_claims_to_be_is_not_kept(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    _fake_build(monkeypatch)
    monkeypatch.setattr(base_model, "build_base", lambda folder, seed: {"harm_probe": 0.5})
    with pytest.raises(UserError, match="testbed-d: harm_probe is 0\\.5"):
        organisms.build_organisms(4)
    assert not (cache / "testbed-d").exists() and not (cache / "testbed-d.yaml").exists()


def test_there_are_names_for_so_many() -> None:
    for n in (0, 27):
        with pytest.raises(UserError, match=f"--organisms {n}: give a number from 1 to 26"):
            organisms.build_organisms(n)
