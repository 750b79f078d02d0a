"""The commands of testbed: info, build, references."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, add_group
from sails_eval.core.errors import UserError
from sails_eval.core.paths import PACKAGE

REPLACES = "replace the models, SAEs and data that ship with the package, on which the published boards stand"


def add(commands: Any) -> None:
    actions = add_group(commands, "testbed", "The embedded model organism: its card, or build it anew.")
    add_command(actions, "info", _testbed_info, "Print the testbed's card.")
    text = "Rebuild models, SAEs, judge and data (about 40 CPU-minutes)."
    build = add_command(actions, "build", _testbed_build, text)
    where = build.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="DIR", help="a new folder to write weights, data and tasks into")
    where.add_argument("--in-place", action="store_true", help=f"instead: {REPLACES}")
    build.add_argument(
        "--organisms",
        type=int,
        metavar="N",
        help="instead: have N organisms, of which 3 ship; others are made and kept in the user's cache",
    )
    build.add_argument(
        "--validation",
        type=int,
        default=0,
        metavar="N",
        help="instead: have N organisms that no board uses, to decide on settings: testbed-v1 and so on",
    )
    build.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of one thread each (default: 1)")
    text = "Train the preference-trained references alone again, in place (about two CPU-minutes)."
    references = add_command(actions, "references", _testbed_references, text)
    references.add_argument("--in-place", action="store_true", required=True, help=REPLACES)


def _testbed_references(options: argparse.Namespace) -> None:
    from sails_eval.testbed.build import rebuild_references

    rebuild_references()


def _testbed_info(options: argparse.Namespace) -> None:
    from sails_eval.testbed.card import render

    print(render())


def _testbed_build(options: argparse.Namespace) -> None:
    if options.organisms is not None or options.validation:
        from sails_eval.testbed.organisms import SHIPPED, build_organisms

        if options.out or options.in_place:
            asked = f"--out {options.out}" if options.out else "--in-place"
            raise UserError(f"{asked}: further organisms are kept in the user's cache; leave it out")
        n = SHIPPED if options.organisms is None else options.organisms
        build_organisms(n, validation=options.validation, jobs=options.jobs)
        return
    if not (options.out or options.in_place):
        raise UserError(
            "testbed build: say where to: --out DIR writes into a new folder, --organisms N makes further organisms in "
            f"the user's cache, --in-place replaces what ships in {PACKAGE / 'testbed'}"
        )
    if options.out and (options.out / "weights").exists():
        raise UserError(f"--out {options.out}: holds weights already; give a new folder, or delete it")
    from sails_eval.testbed.build import build

    build(options.out, jobs=options.jobs)
