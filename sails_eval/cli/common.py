"""What commands have in common: how they are added, the configuration that flags and a file make, printing."""

import argparse
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def add_command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A command with its function, help text and the flags that all have."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text.replace("%", "%%"), description=text)
    command.set_defaults(run_command=run)
    noise = command.add_mutually_exclusive_group()
    noise.add_argument("-v", "--verbose", action="store_true", help="also print log messages")
    noise.add_argument("-q", "--quiet", action="store_true", help="print the result only, without progress bars")
    return command


def add_group(commands: Any, name: str, text: str, what: str = "action") -> Any:
    """A command that only has further ones, its actions, which are to be added to what is returned."""
    group = commands.add_parser(name, help=text, description=text)
    return group.add_subparsers(title=f"{what}s", metavar=what.upper(), required=True)


def add_include_path(command: argparse.ArgumentParser) -> None:
    text = "folder with tasks of the run that are neither bundled nor in ./tasks; repeatable (default: none)"
    command.add_argument("--include-path", type=Path, action="append", default=[], metavar="DIR", help=text)


def config_values(path: Path) -> dict[str, Any]:
    """The keys and values of a configuration's file; hyphens in keys are underscores. Raises UserError naming it."""
    from sails_eval.core.schema import read_mapping

    return {key.replace("-", "_"): value for key, value in read_mapping(path).items()}


def read_config(options: argparse.Namespace, **fixed: Any) -> Any:
    """The configuration: the file's keys, overridden by the flags that were given."""
    from sails_eval.core.comparison import CompareConfig
    from sails_eval.core.schema import validate

    where, values = "command line", {}
    if options.config:
        where, values = str(options.config), config_values(options.config)
        validate(CompareConfig, values, where=where)
        if "contrasts" in values:
            log.warning("%s: key 'contrasts' is deprecated; rename it to 'comparisons'", where)
            values["comparisons"] = values.pop("contrasts")
    flags = {key: value for key in CompareConfig.model_fields if (value := getattr(options, key, None)) is not None}
    if {"pair", "model"} & flags.keys():  # one of them on the command line replaces either in the file
        values = {key: value for key, value in values.items() if key not in ("pair", "model")}
    return validate(CompareConfig, {**values, **flags, **fixed}, where=where, flags=flags)


def print_usage(run: Path) -> None:
    """Print what the judges of a run have used so far, as far as they count it."""
    from sails_eval.judges.usage import told
    from sails_eval.run.folder.run_folder import RunFolder

    for line in told(RunFolder(run).usage()):
        print(line)


def report_problems(problems: list[str], path: Path | str) -> int:
    """Print them; the exit status."""
    for problem in problems:
        print(problem)
    if len(problems) != 1:  # which is a line of its own
        print(f"{path}: {f'{len(problems)} problems' if problems else 'no problems found'}")
    return 2 if problems else 0
