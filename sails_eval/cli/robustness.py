"""The commands forgetting and durability: what fine-tuning cost besides, and how long it lasts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, names, print_usage


def add(commands: Any) -> None:
    """Add the commands."""
    text = (
        "How far the chosen models of a finished run moved from the base on neutral text, and what they can't do now."
    )
    _add_run(add_command(commands, "forgetting", _forgetting, text))
    text = "How much of the alignment of a finished run's chosen models is left after re-tuning, 4 bits and merging."
    durability = add_command(commands, "durability", _durability, text)
    _add_run(durability)
    durability.add_argument(
        "--attack",
        type=names,
        default=(),
        metavar="A,B",
        help="benign:N, harmful:N (re-tuned on N examples), quantise:4bit, merge (default: all of these that the "
        "pair's data and this machine allow, with N = 10 and 100)",
    )


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument("run_dir", type=Path, metavar="RUN", help="a finished run's folder, of one pair or several")
    command.add_argument(
        "--methods", type=names, default=(), metavar="A,B", help="those of its trained methods (default: all)"
    )
    command.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes of one thread each")


def _forgetting(options: argparse.Namespace) -> None:
    from sails_eval.analyses.forgetting.measure import forgetting
    from sails_eval.analyses.forgetting.results import shown

    files = forgetting(options.run_dir, options.methods, jobs=options.jobs, quiet=options.quiet)
    print(shown(options.run_dir))
    _tell(files)


def _durability(options: argparse.Namespace) -> None:
    from sails_eval.analyses.durability.measure import durability
    from sails_eval.analyses.durability.report import shown

    files = durability(options.run_dir, options.attack, options.methods, jobs=options.jobs, quiet=options.quiet)
    print("\n\n".join(shown(file, options.run_dir) for file in files))
    print_usage(options.run_dir)
    _tell(files)


def _tell(files: list[Path]) -> None:
    for file in files:
        print(f"written to {file}")
