"""The command `sails-eval docs`: the pages of the documentation, which the package carries."""

import argparse
import pydoc
import re
import sys
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command
from sails_eval.core.errors import unknown
from sails_eval.core.paths import bundled

LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
"""A link to a page, to a heading, or to a file of the repository, which leads nowhere in a terminal."""


def add(commands: Any) -> None:
    command = add_command(commands, "docs", _show, "Print a page of the documentation, or list the pages.")
    command.add_argument(
        "page", nargs="?", metavar="PAGE", help="name of a page, such as protocol (default: list the pages)"
    )


def pages() -> dict[str, Path]:
    """The pages by name."""
    return {path.stem: path for path in sorted(bundled("docs").glob("*.md"))}


def _show(options: argparse.Namespace) -> None:
    found = pages()
    if options.page is None:
        width = max(map(len, found))
        for name, path in found.items():
            print(f"{name:{width}}  {path.read_text(encoding='utf-8').splitlines()[0].lstrip('# ')}")
    elif (name := Path(options.page).stem) not in found:
        raise unknown("page", options.page, found)
    else:
        text = LINK.sub(_without_link, found[name].read_text(encoding="utf-8"))
        if sys.stdout.isatty():
            pydoc.pager(text)
        else:
            print(text, end="")


def _without_link(link: re.Match[str]) -> str:
    """What a link says, with the command that prints its page, or with its place in the repository."""
    text, target = link[1], link[2]
    if not target:
        return text
    if "/" not in target and target.endswith(".md"):
        command = f"sails-eval docs {Path(target).stem}"
        return command if text == Path(target).stem else f"{text} ({command})"
    inside = target.removeprefix("../")
    return text if inside in text else f"{text} ({inside} in the repository)"
