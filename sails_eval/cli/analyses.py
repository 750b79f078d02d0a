"""The commands that ask something of a finished run: those of sails_eval/analyses, and of other packages."""

import argparse
import pkgutil
import sys
from importlib import import_module
from typing import Any

from sails_eval import analyses
from sails_eval.analyses.base import Analysis
from sails_eval.cli.common import add_command
from sails_eval.core.errors import UserError
from sails_eval.core.escape import visible


def add(commands: Any) -> None:
    """Add the `Command` of the `command.py` in each folder of sails_eval/analyses."""
    for module in pkgutil.walk_packages(analyses.__path__, f"{analyses.__name__}."):
        if module.name.endswith(".command"):
            _add(commands, import_module(module.name).Command())


def add_plugins(commands: Any, asked: str) -> None:
    """Add the analysis of another package that is asked for or, for help, all of them.

    Raises UserError where the one that is asked for cannot be used; of any other, that is a warning.
    """
    from sails_eval.core.plugins import faults_told, load_plugin, plugins  # slow: no command of ours waits for it

    found = plugins("analyses")
    for name, point in found.items() if asked not in found else [(asked, found[asked])]:
        try:
            if name in commands.choices:
                raise UserError(
                    f"{point.group}: '{name}' ({point.value}) has the name of a built-in command; rename it"
                )
            kind = load_plugin(point)
            if not (isinstance(kind, type) and issubclass(kind, Analysis) and kind.name == name):
                raise UserError(f"{point.group}: '{name}' ({point.value}) is not an Analysis with that name")
            with faults_told(f"{point.group}: '{name}' ({point.value})"):
                analysis = kind()
                analysis.add_arguments(argparse.ArgumentParser())  # one that raises half-way is not to be listed
                _add(commands, analysis)
        except UserError as error:
            if name == asked:
                raise
            print(f"sails-eval: warning: {visible(str(error))}", file=sys.stderr)


def _add(commands: Any, analysis: Analysis) -> None:
    analysis.add_arguments(add_command(commands, analysis.name, analysis.run, analysis.help))
