"""The command `sails-eval leaderboard`."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import (
    add_command,
    add_group,
    add_include_path,
    print_usage,
    report_problems,
)
from sails_eval.cli.flags import flag
from sails_eval.core.files import check_file
from sails_eval.core.tables import Table, add_table_flags, print_table


def add(commands: Any) -> None:
    actions = add_group(commands, "leaderboard", "Show, check or publish leaderboards.")
    show = add_command(actions, "show", _show, "Print the leaderboard of a run, or a board.")
    show.add_argument("path", type=Path, metavar="RUN_OR_BOARD", help="run folder, or CSV file of a board")
    add_table_flags(show)
    text = "also print the figures reported in the SAILS paper, which were not measured here"
    show.add_argument("--with-paper", action="store_true", help=text)
    check = add_command(actions, "check", _check_board, "Check a leaderboard or board for errors.")
    check.add_argument("path", type=Path, metavar="RUN_OR_BOARD", help="run folder, or CSV file of a board")
    text = "Add the rows of a run to a board, a CSV file with the same table in Markdown beside it."
    publish = add_command(actions, "publish", _publish, text)
    publish.add_argument("path", type=Path, metavar="RUN", help="run folder")
    text = "board to publish to; created if it does not exist"
    publish.add_argument("--board", type=Path, required=True, metavar="FILE.csv", help=text)
    text = "allow a board whose rows come from other library versions or test sets (default: refused)"
    publish.add_argument("--allow-mixed", action="store_true", help=text)
    text = "allow a run without --protocol confirm; the board is then marked as exploratory (default: refused)"
    publish.add_argument("--exploratory", action="store_true", help=text)
    text = "also copy test prompts and answers into this folder; refused if the card of a task forbids redistribution"
    publish.add_argument("--include-completions", type=Path, metavar="DIR", help=text)
    add_include_path(publish)
    text = (
        "Measure how much a run's refusal and safety depend on the wording of the judge's rubric, by three paraphrases."
    )
    sensitivity = add_command(actions, "sensitivity", _sensitivity, text)
    sensitivity.add_argument("path", type=Path, metavar="RUN", help="run folder of a run on one pair")
    text = "judge that takes a rubric: hf:MODEL or openai:MODEL"
    sensitivity.add_argument("--judge", required=True, metavar="JUDGE", help=text)
    flag(sensitivity, "--send-to", "HOST", action="append")
    text = "allow a judge that is the evaluated model itself (default: refused)"
    sensitivity.add_argument("--allow-self-judging", action="store_true", help=text)
    add_include_path(sensitivity)


def _show(options: argparse.Namespace) -> None:
    from sails_eval.cli.show import records, show

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

    check_file(options.board, "--board")
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
