"""The command line: parse, call, print. Nothing heavy is imported before a command is known."""

import argparse
import io
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO

from sails_eval.cli import (
    analyses,
    compare,
    data,
    docs,
    judge,
    leaderboard,
    methods,
    models,
    pairs,
    runs,
    saes,
    tasks,
    testbed,
)
from sails_eval.cli.parser import Parser
from sails_eval.core.errors import explained, first_line
from sails_eval.core.escape import PlainFormatter, Visible, visible
from sails_eval.core.stopping import catch_signals, say_stopped
from sails_eval.core.version import __version__

DEBUG, DEBUG_VARIABLE = "--debug", "SAILS_EVAL_DEBUG"
"""The flag, anywhere on the command line, and the environment variable, either of which shows tracebacks."""

EPILOG = """\
examples:
  sails-eval compare --methods sails,lora,full
  sails-eval compare --model ./my-model --sae ./sae/layer_5 --train pairs.jsonl \\
      --tasks my_harmful,my_safe --judge rules
  sails-eval plan --pair gemma-2-2b
  sails-eval compare --add my_method --against runs/testbed-1a2b3c4d
  sails-eval durability runs/testbed-1a2b3c4d --attack harmful:10,harmful:100
  sails-eval tasks new my_harmful --from prompts.csv --prompt-column goal --kind harmful
  sails-eval leaderboard publish runs/testbed-1a2b3c4d --board leaderboards/testbed.csv
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. Bad input is a line on stderr for every problem, and status 2.

    Without `arguments` this is the program: they are those of the command line, and signals are its own.
    """
    if arguments is None:
        catch_signals()
        _open_streams()
        arguments = sys.argv[1:]
    with redirect_stdout(Visible(sys.stdout)):
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        words = [word for word in arguments if word != DEBUG]
        options = parser(*words[:1]).parse_args(words)
        _set_up(options)
        status = int(options.run_command(options) or 0)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as error:
        return say_stopped(error)
    except BrokenPipeError:  # whoever reads what is printed has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if DEBUG in arguments or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
            traceback.print_exception(error)
        return _say(error)


def _open_streams() -> None:
    """Have somewhere to print where the standard streams are closed, and print in whatever encoding there is."""
    while (spare := os.open(os.devnull, os.O_RDWR)) <= 2:  # or a file that is opened later would be one of them
        pass
    os.close(spare)
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _say(error: Exception) -> int:
    """Print an error, a line for each problem; the exit status."""
    if known := explained(error):
        lines = visible(str(known)).splitlines()
        print(*(f"sails-eval: error: {line}" for line in lines), sep="\n", file=sys.stderr)
        return 2
    told = visible(f"{type(error).__name__}: {first_line(error)}")
    told = f"sails-eval: internal error: {told}; run again with {DEBUG} for the traceback, and please report it"
    print(told, file=sys.stderr)
    return 1


def parser(asked: str = "") -> Parser:
    """The whole command line. Packages of the user's own are looked for only where no command of ours is asked for."""
    top = Parser(
        prog="sails-eval",
        description="Compare safety fine-tuning methods on language models at equal budgets: train models,\n"
        "judge their answers, and rank the methods by safety and helpfulness.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument(DEBUG, action="store_true", help=f"print the traceback of any error (or set {DEBUG_VARIABLE}=1)")
    top.add_argument("--version", action="version", version=f"sails-eval {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (
        compare,
        runs,
        leaderboard,
        analyses,
        judge,
        methods,
        pairs,
        saes,
        models,
        data,
        tasks,
        testbed,
        docs,
    ):
        module.add(commands)
    if asked not in commands.choices:
        analyses.add_plugins(commands, asked)
    return top


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at the moment: where bars are drawn, that puts lines above them."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _set_up(options: argparse.Namespace) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if vars(options).get("wide"):
        os.environ["COLUMNS"] = str(10**6)
    logging.raiseExceptions = False  # a full disk is told once, by what stops
    stderr = _ToStderr()
    stderr.setFormatter(PlainFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[stderr])
    logging.getLogger("sails_eval").setLevel(logging.INFO)
    if not options.verbose:
        for handler in logging.getLogger().handlers:
            handler.setLevel(logging.WARNING)
