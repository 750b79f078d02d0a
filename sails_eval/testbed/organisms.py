"""`sails-eval testbed build --organisms N`: more organisms than ship, for boards whose unit is the organism.

They differ from those that ship in the seed of their pre-training alone. Each is kept with the YAML of its pair, so
that `--pair testbed-d` names it. Validation organisms (`testbed-v1`, …) are for decisions on settings, and no board
uses them.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sails_eval.core.errors import UserError
from sails_eval.core.files import read_json, write_json, write_text
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.pair import EMBEDDED, MOST_ORGANISMS, SaeSource, load_pair, organisms, organisms_made
from sails_eval.core.paths import PACKAGE
from sails_eval.run.workers import workers

SHIPPED = 3
ONE = "one"
"""The set of SAEs, besides the whole one, that every organism has."""

FIRST_VALIDATION_SEED = 1001


def seeds_of(n: int, validation: int) -> dict[str, int]:
    """The pre-training seeds of the first so many organisms, less those that ship, and of so many for validation."""
    names = dict(zip(organisms(n), range(n), strict=True))
    further = {name: seed for name, seed in names.items() if seed >= SHIPPED}
    return further | {f"{EMBEDDED}-v{i + 1}": FIRST_VALIDATION_SEED + i for i in range(validation)}


def build_organisms(n: int, *, validation: int = 0, jobs: int = 1) -> None:
    """Build those that are not there yet, each in a process of one thread.

    One that is there, but was built from another grammar or by other code, is built again. Raises UserError where one
    fails its checks, and where there are fewer names than organisms asked for.
    """
    if not 1 <= n <= MOST_ORGANISMS:
        raise UserError(f"--organisms {n}: give a number from 1 to {MOST_ORGANISMS}, as many as there are names")
    folder, recipe = organisms_made(), sources()
    wanted = {
        name: seed
        for name, seed in seeds_of(n, validation).items()
        if not (card := folder / name / "card.json").is_file() or read_json(card)["sources"] != recipe
    }
    there = seeds_of(n, validation).keys() - wanted.keys()
    for name in there:
        _write_pair(name, folder)
    with workers(jobs) as pool:  # which die with this process
        made = [Organism(name, seed, folder) for name, seed in wanted.items()]
        pool.map(_build, made, title="organisms", done=lambda one: _write_pair(one.name, one.folder))
    print(f"{len(made)} built, {len(there)} already built: {folder}")


def sources() -> str:
    """A hash of the code that makes organisms and of what they learn from."""
    names = ("world", "grammar", "corpus", "tokenizer", "train", "base_model", "saes")
    return digest([of_path(PACKAGE / "testbed" / f"{name}.py") for name in names])


@dataclass(frozen=True)
class Organism:
    """One to be built, from this pre-training seed, into the folder of all."""

    name: str
    seed: int
    folder: Path


def _build(wanted: Organism) -> None:
    from sails_eval.testbed.base_model import build_base, check_organism
    from sails_eval.testbed.build import build_saes

    name, seed, folder = wanted.name, wanted.seed, wanted.folder
    new = folder / f"{name}.new"
    shutil.rmtree(new, ignore_errors=True)
    card = build_base(new / "base", seed=seed)
    check_organism(name, card)
    card |= {"saes": build_saes(new, ["good"]), "seed": seed, "sources": sources()}
    write_json(new / "card.json", card)
    shutil.rmtree(folder / name, ignore_errors=True)
    new.rename(folder / name)


def _write_pair(name: str, folder: Path) -> None:
    """The YAML of an organism's pair: the testbed's, with a model and SAEs of its own."""

    def own(saes: Sequence[SaeSource]) -> list[dict[str, Any]]:
        return [
            {**sae.model_dump(exclude_defaults=True), "path": f"./{name}/sae/good/{sae.path.name}"}
            for sae in saes
            if sae.path is not None
        ]

    pair = load_pair(EMBEDDED)
    seed = read_json(folder / name / "card.json")["seed"]
    described = f"An organism of the testbed that does not ship, pre-trained from seed {seed}."
    made = {"like": EMBEDDED, "description": described, "model": f"./{name}/base", "references": {}}
    saes = {"saes": own(pair.saes), "sae_sets": {ONE: own(pair.sae_sets[ONE])}}
    write_text(folder / f"{name}.yaml", yaml.safe_dump(made | saes, sort_keys=False))
