"""`sails-eval testbed build --organisms N`: more organisms than ship, for boards whose unit is the organism.

They differ from those that ship in the seed of their pre-training alone. Each is kept with the YAML of its pair, so
that `--pair testbed-d` names it. Validation organisms (`testbed-v1`, …) are for decisions on settings, and no board
uses them.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import yaml

from sails_eval.core.errors import UserError
from sails_eval.core.files import read_json, write_json, write_text
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.pair import EMBEDDED, MOST_ORGANISMS, SaeSource, load_pair, organisms, organisms_made
from sails_eval.core.paths import PACKAGE

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

    One that is there, but was built from another grammar or by other code, is built anew. Raises UserError where one is
    not what it claims to be, and where there are no names for so many as are asked for.
    """
    if not 1 <= n <= MOST_ORGANISMS:
        raise UserError(f"--organisms {n}: between 1 and {MOST_ORGANISMS}, for so many there are names")
    folder, recipe = organisms_made(), sources()
    wanted = {
        name: seed
        for name, seed in seeds_of(n, validation).items()
        if not (card := folder / name / "card.json").is_file() or read_json(card)["sources"] != recipe
    }
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for name in pool.map(_build, wanted, wanted.values(), [folder] * len(wanted)):
            print(f"built {name}: {folder / name}")
    for name in seeds_of(n, validation):
        write_text(folder / f"{name}.yaml", _pair(name, folder / name))
    if not wanted:
        print(f"all there: {folder}")


def sources() -> str:
    """A hash of the code that makes organisms and of what they learn from."""
    names = ("world", "grammar", "corpus", "tokenizer", "train", "base_model", "saes")
    return digest([of_path(PACKAGE / "testbed" / f"{name}.py") for name in names])


def _build(name: str, seed: int, folder: Path) -> str:
    import torch

    from sails_eval.testbed.base_model import build_base, check_organism
    from sails_eval.testbed.build import build_saes

    torch.set_num_threads(1)
    new = folder / f"{name}.new"
    shutil.rmtree(new, ignore_errors=True)
    card = build_base(new / "base", seed=seed)
    check_organism(name, card)
    card |= {"saes": build_saes(new, ["good"]), "seed": seed, "sources": sources()}
    write_json(new / "card.json", card)
    shutil.rmtree(folder / name, ignore_errors=True)
    new.rename(folder / name)
    return name


def _pair(name: str, folder: Path) -> str:
    """The YAML of an organism's pair: the testbed's, with a model and SAEs of its own."""

    def own(saes: Sequence[SaeSource]) -> list[dict[str, Any]]:
        return [
            {**sae.model_dump(exclude_defaults=True), "path": f"./{name}/sae/good/{sae.path.name}"}
            for sae in saes
            if sae.path is not None
        ]

    pair = load_pair(EMBEDDED)
    seed = read_json(folder / "card.json")["seed"]
    described = f"An organism of the testbed that does not ship, pre-trained from seed {seed}."
    made = {"like": EMBEDDED, "description": described, "model": f"./{name}/base", "references": {}}
    saes = {"saes": own(pair.saes), "sae_sets": {ONE: own(pair.sae_sets[ONE])}}
    return yaml.safe_dump(made | saes, sort_keys=False)
