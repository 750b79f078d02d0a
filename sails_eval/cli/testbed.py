"""The commands of testbed: info, build, references."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, add_group
from sails_eval.core.errors import UserError


def add(commands: Any) -> None:
    actions = add_group(commands, "testbed", "The embedded model organism: its card, or build it anew.")
    add_command(actions, "info", _testbed_info, "Print the testbed's card.")
    text = "Rebuild models, SAEs, judge and data (about 40 CPU-minutes)."
    build = add_command(actions, "build", _testbed_build, text)
    build.add_argument("--out", type=Path, metavar="DIR", help="default: in place, over the shipped ones")
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
    text = "Train the preference-trained references alone anew, in place (about two CPU-minutes)."
    add_command(actions, "references", _testbed_references, text)


def _testbed_references(options: argparse.Namespace) -> None:
    from sails_eval.testbed.build import rebuild_references

    rebuild_references()


def _testbed_info(options: argparse.Namespace) -> None:
    from sails_eval.testbed.card import render

    print(render())


def _testbed_build(options: argparse.Namespace) -> None:
    if options.organisms is not None or options.validation:
        from sails_eval.testbed.organisms import SHIPPED, build_organisms

        if options.out:
            raise UserError(f"--out {options.out}: further organisms are kept in the user's cache; leave it out")
        n = SHIPPED if options.organisms is None else options.organisms
        build_organisms(n, validation=options.validation, jobs=options.jobs)
        return
    from sails_eval.testbed.build import build

    build(options.out, jobs=options.jobs)
