"""YAML as other people write it: what cannot be read, or would grow beyond reason, is one line with file and line."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import yaml

from sails_eval.core.errors import UserError, first_line

MOST = 100_000
"""How many values a file may hold, each counted as often as aliases (*name) repeat it."""

DEEPEST = 50
"""How many mappings and lists may stand inside each other."""


def parse_yaml(where: str, text: str) -> Any:
    """What a YAML file says. Raises UserError as `check_yaml` does."""
    root = check_yaml(where, text)
    with _told(where):
        return None if root is None else yaml.SafeLoader("").construct_document(root)


@lru_cache(maxsize=512)  # all tasks and methods, which a command may look through several times
def check_yaml(where: str, text: str) -> yaml.Node | None:
    """The root of a YAML file, None for an empty one; tags that YAML does not know itself (!function) are left alone.

    Raises UserError, with the line where that is known, for what is no YAML, a value that is not of its kind (a 13th
    month, an integer of thousands of digits), values that no text file can hold (NUL, half of a surrogate pair),
    aliases that go in a circle or multiply, and deep nesting.
    """
    with _told(where):
        loader = yaml.SafeLoader(text)  # not the one in C, which deep nesting makes crash
        root = loader.get_single_node()
        if root is not None:
            _count(where, loader, root, {}, 0)
    return root


@contextmanager
def _told(where: str) -> Iterator[None]:
    try:
        yield
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise UserError(f"{where}: not valid YAML: nested too deeply") from error


def _count(where: str, loader: yaml.SafeLoader, node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """How many values a node holds, itself included; 0 in `known` is one that holds the present one."""
    place = f"{where}:{node.start_mark.line + 1}"
    if (number := known.get(id(node))) == 0:
        raise UserError(f"{place}: an alias (*name) refers to a value that contains it; write the value out instead")
    if number is not None:
        return number
    if depth > DEEPEST:
        raise UserError(f"{place}: nested too deeply; at most {DEEPEST} levels are read")
    known[id(node)], number = 0, 1
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(place, loader, node)
    else:
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(item,) for item in node.value]
        number += sum(_count(where, loader, part, known, depth + 1) for pair in pairs for part in pair)
    if number > MOST:
        raise UserError(f"{place}: aliases (*name) multiply to more than {MOST:,} values; write the values out instead")
    known[id(node)] = number
    return number


def _check_scalar(place: str, loader: yaml.SafeLoader, node: yaml.ScalarNode) -> None:
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in node.value):
        raise UserError(f"{place}: a text holds NUL or half of a surrogate pair; remove it")
    if not node.tag.startswith("tag:yaml.org,") or node.tag == "tag:yaml.org,2002:merge":
        return
    try:
        loader.construct_object(node)
    except yaml.YAMLError:
        raise
    except Exception as error:  # whatever Python raises for a scalar; PyYAML lets it through
        told = f"{node.value!r:.40} ({first_line(error).partition(';')[0]})"
        raise UserError(f"{place}: cannot read the value {told}; put a text in quotes") from error
