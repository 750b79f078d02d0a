"""Lists of names as they are written on the command line and in YAML, and flags by their earlier names."""

import argparse
import logging
from typing import Any

log = logging.getLogger(__name__)


def names(text: str) -> tuple[str, ...]:
    """`A,B` as its names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def listed(value: Any) -> Any:
    """`A,B` or `A B` in a YAML file as a list; a number alone as a list of one; anything else as it is."""
    if isinstance(value, str):
        return names(value) if "," in value else tuple(value.split())
    return (value,) if isinstance(value, int) else value


def renamed(parser: Any, old: str, new: str, **kind: Any) -> None:
    """Take the flag `new` by its earlier name, too, with a warning; no help text names it."""

    class _Renamed(argparse.Action):
        def __call__(self, _parser: Any, namespace: argparse.Namespace, value: Any, _flag: str | None = None) -> None:
            log.warning("%s is deprecated; use %s instead", old, new)
            setattr(namespace, self.dest, value)

    dest = new.lstrip("-").replace("-", "_")
    parser.add_argument(old, dest=dest, action=_Renamed, help=argparse.SUPPRESS, default=argparse.SUPPRESS, **kind)
