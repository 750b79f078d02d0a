"""The command durability."""

import argparse

from sails_eval.analyses.base import Analysis
from sails_eval.core.names import names
from sails_eval.core.tables import add_table_flags, print_table


class Command(Analysis):
    name = "durability"
    help = (
        "Measure how much alignment the chosen models of a finished run keep after further fine-tuning, 4-bit "
        "quantisation and merging."
    )

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        super().add_arguments(parser)
        text = (
            "attacks: benign:N, harmful:N (fine-tune further on N examples), quantise:4bit, merge (default: all that "
        )
        text += "the pair's data and this machine allow, with N = 10 and 100)"
        parser.add_argument("--attack", type=names, default=(), metavar="A,B", help=text)
        add_table_flags(parser)

    def run(self, options: argparse.Namespace) -> None:
        from sails_eval.analyses.durability.measure import durability
        from sails_eval.analyses.durability.report import NAME, Decay, shown
        from sails_eval.analyses.finished_run import measured_rows
        from sails_eval.judges.usage import told
        from sails_eval.run.folder.run_folder import RunFolder

        run = options.run_dir
        files = durability(run, options.attack, options.methods, jobs=options.jobs, quiet=options.quiet)
        if options.json or options.csv:
            print_table(options, measured_rows(RunFolder(run), NAME, Decay))
            return
        print(shown(RunFolder(run)))
        print(*told(RunFolder(run).usage()), *(f"written to {file}" for file in files), sep="\n")
