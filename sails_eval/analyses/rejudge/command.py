"""The command rejudge."""

import argparse
from pathlib import Path

from sails_eval.analyses.base import Analysis


class Command(Analysis):
    name = "rejudge"
    help = "Have another judge read a finished run's test answers, and write its leaderboard beside the first."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "run_dir", type=Path, metavar="RUN", help="folder of a finished run, of one pair or several"
        )
        text = "the other judge: rules, hf:MODEL, openai:MODEL?key=value, zoo:NAME or others, or a panel J,J,J "
        text += "(see: sails-eval docs judges)"
        parser.add_argument("--judge", required=True, metavar="JUDGE", help=text)
        text = "folder for its results and leaderboards (default: RUN/rejudged/JUDGE-HASH)"
        parser.add_argument("--out", type=Path, metavar="DIR", help=text)
        text = "host that may get the prompts of gated sets, repeatable (default: none)"
        parser.add_argument("--send-to", action="append", default=[], metavar="HOST", help=text)
        text = "allow a judge that is the evaluated model itself (default: refused)"
        parser.add_argument("--allow-self-judging", action="store_true", help=text)
        text = "allow zoo judges to run code from their model repositories (default: refused)"
        parser.add_argument("--trust-remote-code", action="store_true", help=text)
        text = "folder with tasks of the run that are neither bundled nor in ./tasks; repeatable (default: none)"
        parser.add_argument("--include-path", type=Path, action="append", default=[], metavar="DIR", help=text)

    def run(self, options: argparse.Namespace) -> None:
        from sails_eval.analyses.rejudge.measure import Asked, rejudge
        from sails_eval.analyses.rejudge.report import told
        from sails_eval.judges.spec import trusting
        from sails_eval.judges.usage import read_usage
        from sails_eval.judges.usage import told as used
        from sails_eval.run.folder.run_folder import RunFolder

        judge = trusting(options.judge) if options.trust_remote_code else options.judge
        asked = Asked(judge, tuple(options.send_to), options.allow_self_judging, tuple(options.include_path))
        out, boards = rejudge(options.run_dir, asked, options.out, quiet=options.quiet)
        for board in boards:
            print(told(board), end="\n\n")
        print(*used(read_usage(RunFolder(out).usage_file)), f"written to {out}", sep="\n")
