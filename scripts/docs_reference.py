"""The reference pages of the documentation, made of what the code itself says: argparse, pydantic, docstrings."""

from __future__ import annotations

import argparse
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

import sails_eval
from sails_eval.cli import parser
from sails_eval.cli.flags import HELP
from sails_eval.core.architecture import Architecture
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.data_source import Mixture, MixturePart, Selection
from sails_eval.core.device import best_dtype
from sails_eval.core.pair import AttackData, Pair, SaeSource
from sails_eval.core.recipe import Dpo, Recipe, Span
from sails_eval.core.training_settings import Optimiser, Regularise

KEYS: dict[str, tuple[str, tuple[type[BaseModel], ...]]] = {
    "Comparison": (
        "Keys of a `--config` file. A key is the name of a flag of `compare`, with underscores. A key that is left out "
        "has the pair's value, or the default.",
        (CompareConfig,),
    ),
    "Pair": (
        "Keys of a pair's YAML; `like: NAME` inherits from another pair, and the other keys override its values.",
        (Pair, SaeSource, Architecture, AttackData, Optimiser, Regularise),
    ),
    "Data": (
        "Mappings that `train`, `contrast` and other data keys take, besides a file or `hf:…`.",
        (Selection, Mixture, MixturePart),
    ),
    "Recipe": (
        "Keys of a method's YAML; `like: NAME` inherits from another recipe, and the other keys override its values.",
        (Recipe, Span, Dpo),
    ),
}

CONTRACTS = {
    "Initialisations": ("sails_eval.methods.base", ("Initialisation", "FromBasis", "FromContrast")),
    "Judges": ("sails_eval.judges.base", ("Judge",)),
    "Engines": ("sails_eval.models.engines.base", ("Engine",)),
    "Analyses": ("sails_eval.analyses.base", ("Analysis",)),
}


def commands() -> str:
    """Every command with every flag, as `--help` prints them."""
    lines = ["# Commands", "", "Every command and flag, as `sails-eval COMMAND --help` prints them.", ""]
    for command in _subparsers(parser("compare")):
        lines += [f"## {command.prog}", "", command.description or "", "", "```text", _usage(command), "```", ""]
        for group in command._action_groups:
            shown = [
                a for a in group._group_actions if a.help != argparse.SUPPRESS and a.dest not in ("help", "command")
            ]
            shown = [action for action in shown if not isinstance(action, argparse._SubParsersAction)]
            if shown:
                title = "" if group.title in ("positional arguments", "options") else f"**{group.title}**\n\n"
                lines += [f"{title}| argument | meaning |", "| --- | --- |"]
                lines += [f"| {_argument(action)} | {_cell(_help(action, command.prog))} |" for action in shown]
                lines.append("")
    return "\n".join(lines)


def _subparsers(command: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """All commands under one, in order, that of a group before those in it."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            about = {choice.dest: choice.help for choice in action._choices_actions}
            for name, sub in action.choices.items():
                sub.description = sub.description or about.get(name)
                yield sub
                yield from _subparsers(sub)


def _usage(command: argparse.ArgumentParser) -> str:
    return " ".join(command.format_usage().removeprefix("usage:").split())


def _argument(action: argparse.Action) -> str:
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    names = ", ".join(action.option_strings)
    return f"`{names} {value}`".replace(" `", "`").replace("` ", "`").replace("|", "\\|")


def _help(action: argparse.Action, prog: str) -> str:
    return (action.help or "") % {**vars(action), "prog": prog}


def keys() -> str:
    """Every key of the YAML files that people write."""
    lines = ["# Configuration, pair and recipe keys", ""]
    lines += ["Keys of the YAML files that you write. An unknown key is an error that names the nearest known one.", ""]
    for title, (about, models) in KEYS.items():
        lines += [f"## {title}", "", about, ""]
        for model in models:
            if model.__name__ not in (title, "CompareConfig"):
                lines += [f"### {model.__name__}", "", _cell(model.__doc__ or ""), ""]
            lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
            for name, field in model.model_fields.items():
                flag = HELP.get("--" + name.replace("_", "-"), "") if model is CompareConfig else ""
                about_key = field.description or flag % {}
                lines.append(f"| `{name}` | {_type(field.annotation)} | {_default(field)} | {_cell(about_key)} |")
            lines.append("")
    return "\n".join(lines)


def _type(annotation: Any) -> str:
    """A type in words: of several, all that YAML can give."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(one) for one in inner if one is not type(None))
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if origin is tuple:
        return f"list of {_type(inner[0])}"
    if origin is dict:
        return f"mapping of {_type(inner[0])} to {_type(inner[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    words = {str: "text", Path: "path", bool: "true or false", int: "integer", float: "number", Any: "anything"}
    return words.get(annotation, annotation.__name__ if isinstance(annotation, type) else str(annotation))


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default_factory is best_dtype:  # whatever machine the page is made on
        return "`auto`"
    default = field.get_default(call_default_factory=True)
    if default is None or default in ((), {}, ""):
        return "–"
    if isinstance(default, BaseModel):
        return "its defaults" if default.model_dump(exclude_none=True) else "–"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{','.join(map(str, default)) if isinstance(default, tuple) else default}`"


def _cell(text: str) -> str:
    """Text as it can stand in a cell of a table; what looks like HTML, attributes or a flag is shown as it is."""
    shown = str.maketrans({"|": "\\|", "<": "&lt;", "[": "&#91;", "{": "&#123;", "*": "\\*"})
    text = " ".join(text.split()).translate(shown)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text)


def python() -> str:
    """The public names of the package, and what each kind of extension has to be."""
    lines = ["# Python", "", "## Public names", "", "What `sails_eval` offers to a script or notebook.", ""]
    for name in sails_eval.__all__:
        if not name.startswith("__"):
            lines += [f"::: {_place(name)}", ""]
    lines += [
        "## Extensions",
        "",
        "A class of your own extends one of these; [Contributing](../project/contributing.md)",
        "",
    ]
    lines[-2] += " has an example of each."
    for title, (module, names) in CONTRACTS.items():
        lines += [f"### {title}", ""]
        lines += [line for name in names for line in (f"::: {module}.{name}", "    options: {heading_level: 4}", "")]
    return "\n".join(lines)


def _place(name: str) -> str:
    """Where a public name is defined; names are imported when they are first asked for, which no parser can follow."""
    value = getattr(sails_eval, name)
    return f"{value.__module__}.{value.__name__}"
