"""The command forgetting."""

import argparse

from sails_eval.analyses.base import Analysis


class Command(Analysis):
    name = "forgetting"
    help = (
        "Measure how far the chosen models of a finished run moved from the base model on neutral text, and how much "
        "capability they lost."
    )

    def run(self, options: argparse.Namespace) -> None:
        from sails_eval.analyses.forgetting.measure import forgetting
        from sails_eval.analyses.forgetting.results import shown
        from sails_eval.run.folder.run_folder import RunFolder

        files = forgetting(options.run_dir, options.methods, jobs=options.jobs, quiet=options.quiet)
        print(shown(RunFolder(options.run_dir)), *(f"written to {file}" for file in files), sep="\n")
