"""What every analysis is, ours and those of other packages."""

import argparse
from abc import ABC, abstractmethod
from pathlib import Path

from sails_eval.core.names import names


class Analysis(ABC):
    """Something that is asked of a finished run by a command, `name`, with one line of `help`.

    One more is a folder here whose `command.py` has a `Command`, or a class of another package that is an entry point
    of the group `sails_eval.analyses` by that name. Heavy imports belong into `run`, so that help stays quick.
    """

    name = help = ""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add arguments and flags, beside --quiet and --verbose; these are those of what measures chosen models."""
        parser.add_argument("run_dir", type=Path, metavar="RUN", help="a finished run's folder, of one pair or several")
        text = "those of its trained methods (default: all)"
        parser.add_argument("--methods", type=names, default=(), metavar="A,B", help=text)
        parser.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes of one thread each")

    @abstractmethod
    def run(self, options: argparse.Namespace) -> int | None:
        """Print what a person reads; the exit status where it is not 0. Raises UserError for bad input."""
