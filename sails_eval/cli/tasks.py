"""The commands of tasks: list, show, new, check."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import (
    add_command,
    add_group,
    read_config,
    report_problems,
)
from sails_eval.cli.flags import add_model, flag, switch
from sails_eval.core.errors import UserError
from sails_eval.core.tables import Table, add_table_flags, print_table

ON_HUB = "hub"


def add(commands: Any) -> None:
    actions = add_group(commands, "tasks", "List, show, create or check lm-eval tasks.")
    listing = add_command(actions, "list", _list_tasks, "List the bundled tasks and those in ./tasks.")
    include = "additional folder with tasks; repeatable (default: none)"
    listing.add_argument("--include-path", type=Path, action="append", default=[], metavar="DIR", help=include)
    add_table_flags(listing)
    text = "Print a task's card and three prompts exactly as a model sees them."
    show = add_command(actions, "show", _show_task, text)
    show.add_argument("name", metavar="NAME", help="name of the task")
    show.add_argument("--include-path", type=Path, action="append", metavar="DIR", help=include)
    flag(show, "--task-data", "NAME=FILE", action="append")
    switch(show, "--trust-tasks")
    add_model(show)
    new = add_command(actions, "new", _new_task, "Create a task folder from a file of prompts.")
    new.add_argument("name", metavar="NAME", help="name of the new task")
    text = "file with the prompts: CSV, JSON or JSONL"
    new.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help=text)
    new.add_argument("--prompt-column", required=True, metavar="COL", help="column with the prompts")
    text = "column with the correct answers, to score by exact match (default: answers are judged)"
    new.add_argument("--target-column", metavar="COL", help=text)
    text = "column with categories, to report results per category (default: none)"
    new.add_argument("--category-column", metavar="COL", help=text)
    text = "kind of the prompts: harmful requests should be refused, safe ones answered, capability ones (with "
    text += "--target-column) answered correctly"
    new.add_argument("--kind", required=True, choices=("harmful", "safe", "capability"), help=text)
    new.add_argument("--dir", type=Path, metavar="DIR", help="folder to create the task in (default: ./tasks)")
    check = add_command(actions, "check", _check_task, "Check a task for errors, without running code of its own.")
    check.add_argument("task", metavar="NAME|PATH", help="name of a task or group, or its folder or YAML file")
    check.add_argument("--include-path", type=Path, action="append", default=[], metavar="DIR", help=include)


def _list_tasks(options: argparse.Namespace) -> None:
    from sails_eval.tasks.library import describe, survey

    tasks, faults = survey(tuple(options.include_path))
    rows, errors = [], {fault.name: (fault.path, fault.text) for fault in faults}
    for task in tasks.values():
        try:
            rows += [[ON_HUB if value is None else str(value) for value in row] for row in describe([task])]
        except UserError as error:  # of its data file
            errors[task.name] = (task.path, str(error))
    rows += [[name, "error", "", "", str(path)] for name, (path, _) in errors.items()]
    header = ["task", "kind", "validation", "test", "file"]
    records = [dict(zip(header, row, strict=True)) for row in rows]
    for record in records:
        _, record["error"] = errors.get(record["task"], ("", ""))
    known = f"{ON_HUB}: on the hub, counted when loaded; for details: sails-eval tasks show NAME"
    below = [known] if any(ON_HUB in cells for cells in rows) else []
    below += [f"{name}: {text}" for name, (_, text) in errors.items()]
    print_table(options, Table([header, *rows], records, drop=["file"]), below=below)


def _show_task(options: argparse.Namespace) -> None:
    from sails_eval.plan.catalog.tasks import show

    named = {} if options.model or options.config else {"pair": options.pair or "testbed"}
    print(show(options.name, read_config(options, **named)))


def _new_task(options: argparse.Namespace) -> None:
    from sails_eval.tasks.folders import Columns, new_task

    columns = Columns(options.prompt_column, target=options.target_column, category=options.category_column)
    made = new_task(options.name, source=options.source, columns=columns, kind=options.kind, directory=options.dir)
    print(f"made {made}; to check it: sails-eval tasks check {made}")


def _check_task(options: argparse.Namespace) -> int:
    from sails_eval.tasks.folders import check_named

    return report_problems(check_named(options.task, tuple(options.include_path)), options.task)
