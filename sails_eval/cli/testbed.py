"""The commands of testbed: info, build, references."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, add_group
from sails_eval.core.errors import UserError
from sails_eval.core.files import check_folder
from sails_eval.core.paths import PACKAGE

REPLACES = "overwrite the models, SAEs and data shipped with the package, on which the published boards are based"


def add(commands: Any) -> None:
    actions = add_group(
        commands, "testbed", "Describe or rebuild the testbed, the small test models in the package (organisms)."
    )
    add_command(actions, "info", _testbed_info, "Print the testbed's card.")
    text = "Rebuild models, SAEs, judge and data (about 40 CPU minutes), or make more organisms."
    build = add_command(actions, "build", _testbed_build, text)
    where = build.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="DIR", help="new folder to write weights, data and tasks into")
    where.add_argument("--in-place", action="store_true", help=REPLACES)
    build.add_argument(
        "--organisms",
        type=int,
        metavar="N",
        help="make organisms until there are N; 3 ship with the package, others are written to $SAILS_EVAL_CACHE or "
        "~/.cache/sails-eval (about seven CPU minutes each)",
    )
    build.add_argument(
        "--validation",
        type=int,
        default=0,
        metavar="N",
        help="make N organisms, named testbed-v1 and so on, that no board uses, to choose settings on (default: 0)",
    )
    build.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="worker processes, one thread each (default: 1)"
    )
    text = "Retrain only the preference-trained reference models, in place (about two CPU minutes)."
    references = add_command(actions, "references", _testbed_references, text)
    references.add_argument("--in-place", action="store_true", required=True, help=REPLACES)


def _testbed_references(options: argparse.Namespace) -> None:
    from sails_eval.testbed.build import rebuild_references

    rebuild_references()


def _testbed_info(options: argparse.Namespace) -> None:
    from sails_eval.core.tables import wrapped
    from sails_eval.testbed.card import render

    print(*(line if line.startswith("|") else wrapped(line) for line in render().splitlines()), sep="\n")


def _testbed_build(options: argparse.Namespace) -> None:
    if options.organisms is not None or options.validation:
        from sails_eval.testbed.organisms import SHIPPED, build_organisms

        if options.out or options.in_place:
            asked = f"--out {options.out}" if options.out else "--in-place"
            raise UserError(f"{asked}: additional organisms always go to the user's cache; leave this flag out")
        n = SHIPPED if options.organisms is None else options.organisms
        build_organisms(n, validation=options.validation, jobs=options.jobs)
        return
    if not (options.out or options.in_place):
        raise UserError(
            "testbed build: no destination; give --out DIR to write into a new folder, --organisms N to make more "
            f"organisms in the user's cache, or --in-place to overwrite those shipped in {PACKAGE / 'testbed'}"
        )
    if options.out:
        check_folder(options.out)
    if options.out and (options.out / "weights").exists():
        raise UserError(f"--out {options.out}: already contains weights; give a new folder, or delete it")
    from sails_eval.testbed.build import build

    build(options.out, jobs=options.jobs)
