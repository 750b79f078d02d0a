"""The command `sails-eval pairs`."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, add_group
from sails_eval.core.tables import add_table_flags, print_table


def add(commands: Any) -> None:
    actions = add_group(commands, "pairs", "List, show or check pairs: a model with its SAEs, data, tasks and judge.")
    add_table_flags(add_command(actions, "list", _list, "List the shipped pairs."))
    show = add_command(actions, "show", _show, "Print a pair, and which SAE is used for which modules.")
    text = "Check that the model, chat template and SAEs of a pair fit each other, as far as they are on this machine."
    check = add_command(actions, "check", _check, text)
    for action in (show, check):
        action.add_argument("pair", metavar="PAIR", help="name of a shipped pair, or a YAML file")
    text = "text file to measure the SAEs' L0 on (default: the pair's training data if it is a file, else a short text)"
    check.add_argument("--texts", type=Path, metavar="FILE", help=text)


def _list(options: argparse.Namespace) -> None:
    from sails_eval.plan.catalog.pairs import listing

    print_table(options, listing())


def _show(options: argparse.Namespace) -> None:
    from sails_eval.models.architectures import load_whole_pair
    from sails_eval.plan.catalog.pairs import shown

    print(shown(load_whole_pair(options.pair)))


def _check(options: argparse.Namespace) -> int:
    """Status 2 where something does not fit; what is not on this machine is only told."""
    from sails_eval.data.texts import paragraphs
    from sails_eval.models.architectures import load_whole_pair
    from sails_eval.plan.catalog.pairs import check_pair
    from sails_eval.run.workers import quiet_libraries

    pair = load_whole_pair(options.pair)
    quiet_libraries()
    findings = check_pair(pair, paragraphs(options.texts) if options.texts else ())
    for finding in findings:
        print(f"{finding.state:<8} {finding.what}: {finding.told}")
    return 2 if any(finding.state == "wrong" for finding in findings) else 0
