"""`sails-eval methods`: list recipes, show one at a pair, and start a new one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sails_eval.config import Pair, Recipe, load_recipe, read_mapping
from sails_eval.errors import UserError
from sails_eval.paths import search_path
from sails_eval.records import write_text

NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")

TRAINED = {"modules": "the target modules in full", "all": "every weight", "none": "nothing"}

LEFT_TO_THE_NEW = """\
# What it says goes beyond, or instead of, what the recipe says that it is like.
description: Say here in a sentence what it does differently.
{start}# source: Authors year, arXiv …
# learning_rate: {{low: {low:g}, high: {high:g}}}   # all recipes span the same factor, here {span:g}
# settings: {{}}     # of the initialisation
# peft: {{}}         # further fields of PEFT's config
"""


@dataclass(frozen=True)
class Facts:
    """What a recipe trains and looks at, at a pair; `trained` parameters of `total`."""

    recipe: Recipe
    trained: int
    total: int
    needs: frozenset[str]

    @property
    def share(self) -> float:
        """Trained parameters over those of the model without its adapter, in percent."""
        return 100 * self.trained / self.total

    @property
    def rejected(self) -> bool:
        """Whether rejected answers are looked at, by training or by the initialisation."""
        contrasted = "contrast" in self.needs and self.recipe.settings.get("contrast", "responses") == "responses"
        return self.recipe.objective == "dpo" or contrasted

    @property
    def prepares(self) -> str:
        """What the initialisation looks at before training, in words."""
        words = {
            "saes": "SAEs",
            "contrast": "contrast texts of both classes",
            "aligned": "the aligned contrast texts",
            "planted": "the planted subspace",
            "aligned_model": "a finished, aligned model",
        }
        return " and ".join(words[need] for need in words if need in self.needs) or "nothing"


def all_names() -> list[str]:
    """The names of all recipes: the bundled ones and those in ./adapters."""
    return sorted({path.stem for folder in search_path("adapters") for path in folder.glob("*.yaml")})


def facts(recipe: Recipe, pair: Pair) -> Facts:
    """What a recipe comes to at a pair, from the model's shape alone. Raises UserError where that is unknown."""
    from sails_eval.methods import load_initialisation
    from sails_eval.shapes import shape_of, to_train, trained_and_all

    needs = load_initialisation(recipe.init).needs if recipe.init else frozenset()
    trained, total = trained_and_all(to_train(shape_of(pair), pair, recipe))
    return Facts(recipe, trained if recipe.trains else 0, total, needs)


def listing(pair: Pair) -> str:
    """A line for each recipe."""
    rows = [("method", "trained", "share", "SAE", "rejected", "what")]
    for name in all_names():
        recipe = load_recipe(name)
        try:
            found = facts(recipe, pair)
        except UserError as error:  # what a recipe asks for, not every pair has
            rows.append((name, "–", "–", "", "", f"{recipe.description} Not at this pair: {error}"))
            continue
        marks = ("yes" if "saes" in found.needs else "", "yes" if found.rejected else "")
        rows.append((name, f"{found.trained:,}", f"{found.share:.3g} %", *marks, recipe.description))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:5], widths[1:]), row[5]]) for row in rows]
    return "\n".join(
        [*lines, f"trained: parameters at pair '{pair.name}' (--pair); rejected: looks at rejected answers"]
    )


def shown(recipe: Recipe, pair: Pair) -> str:
    """A recipe as it is after `like`, and what that means at a pair."""
    found = facts(recipe, pair)
    values = recipe.model_dump(mode="json", exclude_defaults=True)
    lines = [yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120).rstrip(), ""]
    return "\n".join([*lines, *(f"{key}: {value}" for key, value in _told(found, pair))])


def new_recipe(name: str, like: str, folder: Path) -> Path:
    """Start `folder`/NAME.yaml as a recipe like another one.

    Raises UserError for a name that is taken or no name, and where there is no recipe to be like.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"'{name}' is no name for a method: take lower-case letters, digits, - and _")
    if name in all_names() or (folder / f"{name}.yaml").exists():
        raise UserError(f"the name '{name}' is taken; see sails-eval methods show {name}, or choose another")
    other = load_recipe(like)
    if not other.trains:
        raise UserError(f"'{like}' trains nothing; be like a method that trains, such as lora")
    span = {"low": other.span.low, "high": other.span.high, "span": other.span.high / other.span.low}
    path = folder / f"{name}.yaml"
    start = yaml.safe_dump(_starting_like(like), sort_keys=False)
    write_text(path, LEFT_TO_THE_NEW.format(start=start, **span))
    return path


def _starting_like(name: str) -> dict[str, Any]:
    """The keys that say: as that recipe. One that is itself like another says what it says, as `like` goes one step."""
    for folder in search_path("adapters"):
        if (path := folder / f"{name}.yaml").is_file():
            own = read_mapping(path)
            kept = {key: value for key, value in own.items() if key not in ("description", "source")}
            return kept if "like" in own else {"like": name}
    return {"like": name}


def _told(found: Facts, pair: Pair) -> Iterator[tuple[str, str]]:
    recipe = found.recipe
    adapter = f"{recipe.peft_type} adapters on {', '.join(pair.target_modules)}"
    if recipe.peft_type in ("lora", "adalora"):
        adapter += f", rank {recipe.rank(pair)}"
    yield "trained", TRAINED.get(recipe.parameters, adapter)
    yield f"parameters at {pair.name}", f"{found.trained:,} of {found.total:,} ({found.share:.3f} %)"
    yield "looks at before training", found.prepares
    yield "uses a SAE", "yes" if "saes" in found.needs else "no"
    yield "uses rejected answers", "yes" if found.rejected else "no"
    if found.needs & {"contrast", "aligned"}:
        yield "cost of preparation", _preparation(found, pair)


def _preparation(found: Facts, pair: Pair) -> str:
    from sails_eval.data import read_contrast, read_requests
    from sails_eval.forecast import CHARACTERS_PER_TOKEN

    requests = found.recipe.settings.get("contrast") == "requests"
    data = pair.requests if requests else pair.contrast
    if data is None:
        return "not known: the pair names no contrast data"
    try:
        if requests:
            asked = read_requests(data)  # type: ignore[arg-type]
            texts = ["".join(m.content for m in messages) for messages in (*asked.harmful, *asked.harmless)]
        else:
            pairs = read_contrast(data).examples
            sides = [[e.response, e.rejected or ""] if "contrast" in found.needs else [e.response] for e in pairs]
            texts = [
                "".join(m.content for m in e.messages) + s for e, side in zip(pairs, sides, strict=True) for s in side
            ]
    except UserError as error:
        return f"not known: {error}"
    tokens = sum(1 + len(text) // CHARACTERS_PER_TOKEN for text in texts)
    flops = 2 * found.total * tokens
    return f"{len(texts)} texts, about {tokens:,} tokens once through the model, {flops:.1e} FLOPs; once for all cells"
