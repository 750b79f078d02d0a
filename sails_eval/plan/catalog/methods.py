"""`sails-eval methods`: list recipes, show one at a pair, and start a new one."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sails_eval.core.errors import UserError
from sails_eval.core.files import write_text
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import RANKLESS, Recipe, load_recipe, recipe_file, recipe_files
from sails_eval.core.schema import read_mapping
from sails_eval.core.tables import Table, as_yaml, wrapped
from sails_eval.methods import Initialisation
from sails_eval.methods.subspace.prepare import aligned_model, checked_initialisation, start_seed

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")

TRAINED = {"modules": "the target modules in full", "all": "every weight", "none": "nothing"}

LEFT_TO_THE_NEW = """\
# Keys given here override those of the recipe named by 'like'.
description: Describe here in one sentence how this method differs.
{start}# source: Authors year, arXiv …
# learning_rate: {{low: {low:g}, high: {high:g}}}   # all recipes span the same factor, here {span:g}
# settings: {{}}     # settings of the initialisation
# peft: {{}}         # additional fields of PEFT's config
"""


@dataclass(frozen=True)
class Facts:
    """What a recipe trains and looks at, at a pair; `trained` parameters of `total`.

    `aligned` is the finished model that it looks at, where it does.
    """

    recipe: Recipe
    start: Initialisation
    trained: int
    total: int
    aligned: str

    @property
    def share(self) -> float:
        """Trained parameters over those of the model without its adapter, in percent."""
        return 100 * self.trained / self.total

    @property
    def rejected(self) -> bool:
        """Whether rejected answers are looked at, by training or by the initialisation."""
        contrasted = "contrast" in self.start.needs and self.start.contrasts == "responses"
        return self.recipe.objective == "dpo" or contrasted

    @property
    def prepares(self) -> str:
        """What the initialisation looks at before training, in words."""
        words = {
            "saes": "SAEs",
            "contrast": "contrast texts of both classes",
            "aligned": "the aligned contrast texts",
            "planted": "the planted subspace",
            "aligned_model": f"an aligned model ({self.aligned})",
        }
        return " and ".join(words[need] for need in words if need in self.start.needs) or "nothing"


def all_names() -> list[str]:
    """The names of all recipes: the bundled ones and those in ./adapters."""
    return sorted({path.stem for path in recipe_files()})


def facts(recipe: Recipe, pair: Pair) -> Facts:
    """What a recipe comes to at a pair, from the model's shape alone.

    Raises UserError where that is unknown, and where the pair does not have what the recipe needs.
    """
    from sails_eval.plan.cost.meta_model import shape_of, to_train, trained_and_all

    start = checked_initialisation(pair, recipe)
    trained, total = trained_and_all(to_train(shape_of(pair), pair, recipe))
    return Facts(recipe, start, trained if recipe.trains else 0, total, aligned_model(pair, start))


def listing(pair: Pair) -> Table:
    """A line for each recipe."""
    rows, records = [("method", "trained", "share", "SAE", "rejected", "what", "source")], []
    for name in all_names():
        told: dict[str, Any] = dict.fromkeys(("method", "trained", "total", "uses_saes", "uses_rejected_answers"))
        told["method"], what, source = name, "", ""
        try:
            recipe = load_recipe(name)
            what, source = recipe.description, recipe.source
            found = facts(recipe, pair)
        except UserError as error:  # a faulty file, or what not every pair has
            rows.append((name, "–", "–", "", "", f"{what} Not available here: {error}".lstrip(), source))
            records.append({**told, "description": what, "source": source, "not_here": str(error)})
            continue
        saes = "saes" in found.start.needs
        marks = ("yes" if saes else "", "yes" if found.rejected else "")
        rows.append((name, f"{found.trained:,}", f"{found.share:.3g} %", *marks, what, source))
        told |= {"trained": found.trained, "total": found.total}
        told |= {"uses_saes": saes, "uses_rejected_answers": found.rejected}
        records.append({**told, "description": what, "source": source, "not_here": None})
    return Table(rows, records, "lrrrrl", drop=("source", "rejected", "SAE"))


def shown(recipe: Recipe, pair: Pair) -> str:
    """A recipe as it is after `like`, and what that means at a pair."""
    values = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"source"})
    lines = [as_yaml(values), ""]
    try:
        lines += [wrapped(f"{key}: {value}") for key, value in _told(facts(recipe, pair), pair)]
    except UserError as error:
        lines.append(wrapped(f"not available on pair '{pair.name}': {error}"))
    return "\n".join(lines)


def new_recipe(name: str, like: str, folder: Path) -> Path:
    """Start `folder`/NAME.yaml as a recipe like another one.

    Raises UserError for a name that is taken or no name, and where there is no recipe to be like.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' is not a valid method name: use lower-case letters, digits, - and _, without .yaml")
    if name in all_names() or (folder / f"{name}.yaml").exists():
        raise UserError(f"method '{name}' already exists (see: sails-eval methods show {name}); choose another name")
    other = load_recipe(like)
    if not other.trains:
        raise UserError(f"--like {like}: this method trains nothing; name one that trains, such as lora")
    span = {"low": other.span.low, "high": other.span.high, "span": other.span.high / other.span.low}
    path = folder / f"{name}.yaml"
    start = yaml.safe_dump(_starting_like(like, folder), sort_keys=False)
    write_text(path, LEFT_TO_THE_NEW.format(start=start, **span))
    return path


def _starting_like(name: str, folder: Path) -> dict[str, Any]:
    """The keys that say, in a file in `folder`: as that recipe, which may be given by the path of its file.

    One that is itself like another says what it says, as `like` goes one step.
    """
    path = recipe_file(name)
    own = read_mapping(path)
    if "like" not in own:
        return {"like": name if name == path.stem else os.path.relpath(path, folder)}
    if (other := path.parent / str(own["like"])).suffix in (".yaml", ".yml"):
        own["like"] = os.path.relpath(other, folder)
    return {key: value for key, value in own.items() if key not in ("name", "description", "source")}


def _told(found: Facts, pair: Pair) -> Iterator[tuple[str, str]]:
    from sails_eval.models.adapters import adapter_config

    recipe = found.recipe
    adapter = f"{recipe.peft_type} adapters on {', '.join(pair.target_modules)}"
    if recipe.peft_type not in RANKLESS:
        adapter += f", rank {recipe.rank(pair)}"
    if recipe.peft_type == "adalora":
        adapter += f", reduced from {adapter_config(pair, recipe).init_r}"
    yield "source", recipe.source or "none"
    yield "trained", TRAINED.get(recipe.parameters, adapter)
    yield f"parameters on {pair.name}", f"{found.trained:,} of {found.total:,} ({found.share:.3f} %)"
    yield "needed before training", found.prepares
    yield "uses SAEs", "yes" if "saes" in found.start.needs else "no"
    yield "uses rejected answers", "yes" if found.rejected else "no"
    yield "cost of preparation", _preparation(found, pair)


def _preparation(found: Facts, pair: Pair) -> str:
    """What the initialisation takes before the first cell, by forecast."""
    from sails_eval.models.base import load_tokenizer
    from sails_eval.plan.cost.meta_model import shape_of
    from sails_eval.plan.cost.method_cost import preparation_flops

    recipe = found.recipe
    if str(recipe.peft.get("init_lora_weights")).startswith(("pissa", "olora", "mica")):
        return "decomposing the weights at the start of every cell (not counted)"
    if not found.start.needs & {"saes", "contrast", "aligned"}:
        return "none"
    try:
        looking, saes = preparation_flops(recipe, pair, shape_of(pair), load_tokenizer(pair))
    except UserError as error:
        return f"unknown: {error}"
    about = "at least" if found.start.costs_more else "about"
    often = "once for all cells" if start_seed(pair, recipe, 0) is None else "once for each seed"
    told = f"{about} {looking:.2g} FLOPs to read contrast texts, {often}"
    return told + (f"; {saes:.2g} FLOPs to train the SAEs, which were made for this pair" if saes else "")
