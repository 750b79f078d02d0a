"""The command `sails-eval leaderboard`."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import (
    add_command,
    add_group,
    add_include_path,
    add_table_flags,
    print_table,
    print_usage,
    report_problems,
)
from sails_eval.cli.flags import flag


def add(commands: Any) -> None:
    actions = add_group(commands, "leaderboard", "Show, check or publish leaderboards.")
    show = add_command(actions, "show", _show, "Print a run's leaderboard or a board.")
    show.add_argument("path", type=Path, metavar="RUN_OR_BOARD")
    add_table_flags(show)
    text = "also the figures that the SAILS paper reports, not measured here"
    show.add_argument("--with-paper", action="store_true", help=text)
    check = add_command(actions, "check", _check_board, "Say what is wrong with a leaderboard or board.")
    check.add_argument("path", type=Path, metavar="RUN_OR_BOARD")
    text = "Merge a run's rows into a board (CSV, and Markdown beside it)."
    publish = add_command(actions, "publish", _publish, text)
    publish.add_argument("path", type=Path, metavar="RUN")
    publish.add_argument("--board", type=Path, required=True, metavar="FILE.csv")
    text = "even beside rows of another environment or test set"
    publish.add_argument("--allow-mixed", action="store_true", help=text)
    text = "also a run that was made without --protocol confirm; its board is marked"
    publish.add_argument("--exploratory", action="store_true", help=text)
    text = "copy prompts and answers of the test there, too; refused where a task's card forbids redistribution"
    publish.add_argument("--include-completions", type=Path, metavar="DIR", help=text)
    publish.add_argument("--include-path", type=Path, action="append", default=[], metavar="DIR", help="of its tasks")
    text = "How far a run's refusal and safety hang on the judge's wording: `harm` against three paraphrases of it."
    sensitivity = add_command(actions, "sensitivity", _sensitivity, text)
    sensitivity.add_argument("path", type=Path, metavar="RUN", help="of one pair")
    sensitivity.add_argument("--judge", required=True, metavar="J", help="one with rubrics: hf:MODEL or openai:MODEL")
    flag(sensitivity, "--send-to", "HOST", action="append")
    sensitivity.add_argument("--allow-self-judging", action="store_true", help="let J be the evaluated model itself")
    add_include_path(sensitivity)


def _show(options: argparse.Namespace) -> None:
    from sails_eval.cli.show import records, show
    from sails_eval.core.tables import Table

    if options.json or options.csv:
        print_table(options, Table([], records(options.path)))
    else:
        print(show(options.path, with_paper=options.with_paper))


def _check_board(options: argparse.Namespace) -> int:
    from sails_eval.boards.publish import check
    from sails_eval.run.folder.run_folder import board_file

    return report_problems(check(board_file(options.path)), options.path)


def _publish(options: argparse.Namespace) -> None:
    from sails_eval.boards.publish import publish
    from sails_eval.run.folder.run_folder import RunFolder
    from sails_eval.run.report.published import copy_completions, copy_protocol, published_rows

    run = RunFolder(options.path)
    if options.include_completions:
        copied = copy_completions(run, options.include_completions, tuple(options.include_path))
        print(f"{options.include_completions}: {copied} files of completions")
    frame = publish(published_rows(run), options.board, force=options.allow_mixed, exploratory=options.exploratory)
    copy_protocol(run, options.board)
    print(f"{options.board}: {len(frame)} rows")


def _sensitivity(options: argparse.Namespace) -> None:
    from sails_eval.analyses.sensitivity import measure, report

    found = measure(
        options.path,
        options.judge,
        options.include_path,
        send_to=options.send_to or (),
        allow_self_judging=options.allow_self_judging,
        quiet=options.quiet,
    )
    print(report(found))
    print_usage(options.path)
