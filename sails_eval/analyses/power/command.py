"""The command power."""

import argparse
import re
from pathlib import Path

from sails_eval.analyses.base import Analysis
from sails_eval.core.errors import UserError
from sails_eval.core.names import renamed
from sails_eval.core.tables import add_table_flags, print_table


class Command(Analysis):
    name = "power"
    help = "Compute how many organisms (base models), seeds and prompts are needed to detect a difference."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add, spread = parser.add_argument, parser.add_mutually_exclusive_group(required=True)
        add(
            "--difference",
            type=float,
            required=True,
            metavar="D",
            help="difference to detect, in units of the metric (rates: 0 to 1), such as 0.05",
        )
        add("--power", type=float, default=0.8, metavar="P", help="probability of detecting it (default: 0.8)")
        text = "finished run whose standard deviation over seeds is used"
        spread.add_argument("--from", dest="run_dir", type=Path, metavar="RUN", help=text)
        text = "standard deviation of the paired differences over seeds"
        spread.add_argument("--sd", type=float, metavar="X", help=text)
        add(
            "--prompt-sd",
            type=float,
            metavar="X",
            help="standard deviation due to the choice of prompts, at most --sd; only with --sd (default: 0)",
        )
        text = "standard deviation between organisms, only with --sd; the result is then a number of organisms instead "
        text += "of seeds (default: one organism)"
        add("--organism-sd", type=float, metavar="X", help=text)
        text = "metric of the difference (default: that of the declared comparison, or alignment_score)"
        add("--metric", metavar="NAME", help=text)
        text = "two rows to compare, with --from (default: the first declared comparison)"
        add("--comparisons", type=_rows, metavar="A:B", help=text)
        add("--n-comparisons", type=int, metavar="N", help="number of declared comparisons (default: the run's, or 1)")
        renamed(parser, "--contrast", "--comparisons", type=_rows)
        renamed(parser, "--contrasts", "--n-comparisons", type=int)
        add(
            "--include-path",
            type=Path,
            action="append",
            default=[],
            metavar="DIR",
            help="folder with tasks of the run; repeatable (default: none)",
        )
        add_table_flags(parser)

    def run(self, options: argparse.Namespace) -> None:
        from sails_eval.analyses.power.measure import report, spread_in, spread_of

        if options.comparisons and len(options.comparisons) != 2:
            raise UserError(f"--comparisons {':'.join(options.comparisons)}: name two rows, as in sails:lora")
        for flag in ("prompt_sd", "organism_sd"):
            if options.run_dir and vars(options)[flag] is not None:
                raise UserError(f"--{flag.replace('_', '-')} works with --sd only; --from measures it")
        for flag in ("comparisons", "include_path"):
            if not options.run_dir and vars(options)[flag]:
                raise UserError(f"--{flag.replace('_', '-')} works with --from only; it says what is read there")
        if options.run_dir:
            spread, declared = spread_in(options.run_dir, options.comparisons, options.metric, options.include_path)
        else:
            spread = spread_of(options.sd, options.prompt_sd, options.organism_sd, options.metric)
            declared = 1
        n = declared if options.n_comparisons is None else options.n_comparisons
        found = report(spread, difference=options.difference, power_wanted=options.power, comparisons=n)
        print_table(options, found.table, above=[found.heading, ""], below=["", found.assumed])


def _rows(text: str) -> list[str]:
    return re.split(r"[:,]", text)
