"""An analysis of one's own: `sails-eval example_analysis RUN` says how many rows a run's leaderboard has."""

import argparse
from pathlib import Path

from sails_eval.analyses.base import Analysis


class ExampleAnalysis(Analysis):
    """Counts rows."""

    name = "example_analysis"
    help = "How many rows a finished run's leaderboard has."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("run", type=Path, metavar="RUN", help="a finished run's folder")

    def run(self, options: argparse.Namespace) -> None:
        from sails_eval.boards.table import read_rows  # here, for it imports pandas, and help should be quick

        print(f"{options.run}: {len(read_rows(options.run / 'leaderboard.csv'))} rows")
