"""The command forgetting."""

import argparse

from sails_eval.analyses.base import Analysis
from sails_eval.core.tables import add_table_flags, print_table


class Command(Analysis):
    name = "forgetting"
    help = (
        "Measure how far the chosen models of a finished run moved from the base model on neutral text, and how much "
        "capability they lost."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        add_table_flags(parser)

    def run(self, options: argparse.Namespace) -> None:
        from sails_eval.analyses.finished_run import measured_rows
        from sails_eval.analyses.forgetting.measure import forgetting
        from sails_eval.analyses.forgetting.results import NAME, Forgotten, shown
        from sails_eval.run.folder.run_folder import RunFolder

        files = forgetting(options.run_dir, options.methods, jobs=options.jobs, quiet=options.quiet)
        if options.json or options.csv:
            print_table(options, measured_rows(RunFolder(options.run_dir), NAME, Forgotten))
        else:
            print(shown(RunFolder(options.run_dir)), *(f"written to {file}" for file in files), sep="\n")
