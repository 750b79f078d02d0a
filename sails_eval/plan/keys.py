"""All that a forecast or a list of methods follows from, as far as it can be known without torch."""

import os
import shutil
from pathlib import Path
from typing import Any

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.device import VISIBLE, main_memory
from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import of_path
from sails_eval.core.pair import Pair
from sails_eval.core.plugins import plugins
from sails_eval.core.recipe import load_recipe, recipe_files
from sails_eval.models.engines import CHAT, OPENAI
from sails_eval.plan.prepare import at_size, grid, survey

GIB = 2**30


def plan_key(config: CompareConfig) -> list[Any] | None:
    """What `plan` says follows from this; None where that cannot be told. Free disk counts in whole GiB.

    Raises UserError as the forecast does, before anything slow is imported.
    """
    sizes = grid(config)
    drafts = survey(at_size(config, max(sizes)))
    for draft in drafts:
        if draft.pair is None or not draft.recipes or any(problem.misspelt for problem in draft.problems):
            draft.problems.check()
    if any(draft.sub_run is None for draft in drafts) or Path("/dev/kfd").exists():
        return None
    for one in (draft.sub_run for draft in drafts if draft.sub_run is not None):
        asked = [one.engine, one.judge.spec, *(row.engine for row in one.references)]
        if any(CHAT in name or OPENAI in name for name in asked):  # a server may be there now, and later not
            return None
    told = [
        [
            draft.config.model_dump(mode="json"),
            draft.sub_run.pair.model_dump(mode="json"),
            draft.sub_run.identity.told(),
            list(map(str, draft.problems)),
        ]
        for draft in drafts
        if draft.sub_run is not None
    ]
    gpus = [file.read_text(errors="replace") for file in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))]
    machine = [gpus, os.environ.get(VISIBLE), main_memory(), shutil.disk_usage(".").free // GIB]
    return [len(sizes), told, machine, os.environ.get("COLUMNS")]


def methods_key(pair: Pair) -> list[Any] | None:
    """What `methods list` says at a pair follows from this; None where the pair's model is not a folder here."""
    config = Path(pair.model) / "config.json"
    if not config.is_file():
        return None
    saes = [source for name in (None, *pair.sae_sets) for source in pair.sae_sources(name)]
    paths = [source.path for source in saes if source.path] + [Path(model) for model in pair.references.values()]
    there = [[str(path), path.exists()] for path in (*paths, *([pair.planted] if pair.planted else []))]
    recipes = [[file.stem, _recipe(file.stem)] for file in recipe_files()]
    others = [[name, point.value, point.dist and point.dist.version] for name, point in plugins("methods").items()]
    return [pair.model_dump(mode="json"), of_path(config), there, recipes, others]


def _recipe(name: str) -> Any:
    """What a recipe comes to with those that it is like, or why it cannot be read."""
    try:
        return load_recipe(name).model_dump(mode="json")
    except UserError as error:
        return str(error)
