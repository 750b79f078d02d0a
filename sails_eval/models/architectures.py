"""The table of architectures: which modules read the residual stream of a model and which write to it.

Nothing here loads torch. `layers.py` finds the modules in a model.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field

from sails_eval.core.architecture import Architecture
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.files import read_json
from sails_eval.core.pair import Pair, load_pair
from sails_eval.core.schema import read_mapping, validate
from sails_eval.models.hub import file_here, file_of, no_answer

TABLE = Path(__file__).with_name("architectures.yaml")


class Entry(Architecture):
    """An architecture of the table: the types of the models that have it, and what else their configs must say."""

    models: tuple[str, ...]
    when: dict[str, Any] = Field(default_factory=dict)


@cache
def table() -> dict[str, Entry]:
    """The architectures by name; the first is for models of a type that is in none."""
    found: dict[str, Entry] = {}
    for name, told in read_mapping(TABLE).items():
        entry = validate(Entry, told, where=f"{TABLE}: {name}")
        own = {"models": entry.models, "when": entry.when}
        found[name] = found[entry.like].changed(entry).model_copy(update=own) if entry.like else entry
    return found


def named(config: Mapping[str, Any]) -> str | None:
    """The name of the architecture of a model with this config, which is that of its text part; None: in no table."""
    fitting = {name: entry for name, entry in table().items() if config.get("model_type") in entry.models}
    special = [name for name, entry in fitting.items() if entry.when and entry.when.items() <= config.items()]
    return next((name for name in (*special, *fitting) if name in special or not fitting[name].when), None)


def architecture(config: Mapping[str, Any], own: Architecture | None) -> Architecture:
    """The architecture of a model with this config, and what a pair says of its `own`.

    A model of an unknown type is taken for one like Llama, unless the pair tells its modules. Raises UserError where
    the pair names an unknown one.
    """
    if own and own.like and own.like not in table():
        raise unknown("architecture", own.like, table())
    name = (own and own.like) or named(config)
    if own is None:
        return table()[name or next(iter(table()))]
    tells = own.readers or own.writers
    start = table()[name] if name else Architecture() if tells else next(iter(table().values()))
    made = start.changed(own)
    usual = {"target_modules": made.target_modules or tuple(made.endings)}
    return made.model_copy(update=usual | ({"refused": ""} if tells else {}))


def config_here(pair: Pair, *, fetched: bool = False) -> dict[str, Any]:
    """What config.json says of the text part of a pair's model; nothing where it isn't here or can't be read.

    It may be `fetched` from the hub for this. What is missing or wrong is told elsewhere.
    """
    with suppress(UserError, OSError, *no_answer()):
        file = file_of if fetched else file_here
        if (path := file(pair.model, "config.json", pair.revision)) is not None:
            config = read_json(path)
            text = config.get("text_config")
            return {**config, **text} if isinstance(text, dict) else config
    return {}


def architecture_here(pair: Pair, *, fetched: bool = False) -> tuple[Architecture, str]:
    """The architecture of a pair's model, as far as its config.json is at hand, and its name or the model's type."""
    config = config_here(pair, fetched=fetched)
    name = (pair.architecture and pair.architecture.like) or named(config) or str(config.get("model_type", ""))
    return architecture(config, pair.architecture), name


def with_target_modules(pair: Pair) -> Pair:
    """The same pair; if it names no target modules, with the attention modules of its model's architecture."""
    if pair.target_modules:
        return pair
    return pair.model_copy(update={"target_modules": architecture_here(pair, fetched=True)[0].target_modules})


def load_whole_pair(name: str) -> Pair:
    """A pair as `load_pair` has it, with target modules."""
    return with_target_modules(load_pair(name))


def targets_in_words(pair: Pair) -> str:
    """The target modules of a pair, and which of them can start from a basis."""
    found, name = architecture_here(pair)
    own = pair.architecture is not None or not name or pair.target_modules != found.target_modules
    usual = "" if own else f", as usual for {name}"
    if found.refused:
        return f"{', '.join(pair.target_modules)}{usual}; none can start from a basis: {found.refused}"
    names = {side: [one for one in pair.target_modules if found.side(one) is side] for side in (False, True, None)}
    does = {False: "reading the residual stream", True: "writing to it", None: "on no known side of it"}
    return ", ".join(f"{', '.join(modules)} ({does[side]})" for side, modules in names.items() if modules) + usual
