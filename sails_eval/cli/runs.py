"""The command `sails-eval runs`."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, add_group
from sails_eval.core.tables import add_table_flags, add_wide, fitted, print_table


def add(commands: Any) -> None:
    actions = add_group(commands, "runs", "List or show runs.")
    listing = add_command(actions, "list", _list, "List runs with date, pair, methods, state and best row.")
    text = "folder with runs (default: ./runs)"
    listing.add_argument("folder", type=Path, nargs="?", default=Path("runs"), metavar="DIR", help=text)
    add_table_flags(listing)
    show = add_command(actions, "show", _show, "Print a run's settings, its leaderboard and where its checkpoints are.")
    show.add_argument("path", type=Path, metavar="RUN", help="run folder")
    add_wide(show)


def _list(options: argparse.Namespace) -> None:
    from sails_eval.run.overview import listing

    table = listing(options.folder)
    print_table(options, table, below=[] if table.records else [f"no runs in {options.folder}"])


def _show(options: argparse.Namespace) -> None:
    import yaml

    from sails_eval.cli.show import show
    from sails_eval.run.folder.run_folder import RunFolder
    from sails_eval.run.overview import kept_checkpoints, overview

    run = RunFolder(options.path)
    one, described = overview(run), run.description()
    made_by = described.version + (f", commit {described.commit}" if described.commit else "")
    lines = [("run", f"{one.path}"), ("pair", one.pair), ("methods", ", ".join(one.methods)), ("state", one.state)]
    lines += [("budget", described.budget), ("date", one.date), ("version", made_by)]
    print(*fitted(lines), sep="\n")
    if described.config is not None:
        print("", "settings (can be saved as a file for --config):", sep="\n")
        print(yaml.safe_dump(described.config, sort_keys=False, allow_unicode=True).rstrip())
    if run.leaderboard.is_file():
        print("", show(run.path), "", "checkpoints at the chosen learning rates:", *kept_checkpoints(run), sep="\n")
    else:
        print("", "not finished; give its command again to resume it", sep="\n")
