"""What every analysis is, ours and those of other packages."""

import argparse
from abc import ABC, abstractmethod
from pathlib import Path

from sails_eval.core.names import names


class Analysis(ABC):
    """An analysis of a finished run, called by the command `name`; `help` is its one line of help.

    To add one, make a folder here whose `command.py` has a `Command`, or an entry point of the group
    `sails_eval.analyses` in a package of your own. Import heavy modules inside `run`, so that --help stays fast.
    """

    name = help = ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add arguments and flags, besides --quiet and --verbose; by default RUN, --methods and --jobs."""
        parser.add_argument(
            "run_dir", type=Path, metavar="RUN", help="folder of a finished run, of one pair or several"
        )
        text = "trained methods of the run to measure (default: all)"
        parser.add_argument("--methods", type=names, default=(), metavar="A,B", help=text)
        parser.add_argument(
            "--jobs", type=int, default=1, metavar="N", help="worker processes, one thread each (default: 1)"
        )

    @abstractmethod
    def run(self, options: argparse.Namespace) -> int | None:
        """Print what a person reads; the exit status where it is not 0. Raises UserError for bad input."""
