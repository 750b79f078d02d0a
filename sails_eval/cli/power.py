"""The command power."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, add_include_path, names
from sails_eval.core.errors import UserError


def add(commands: Any) -> None:
    """Add the command."""
    text = "How many seeds and prompts it takes to see a difference between two methods."
    command = add_command(commands, "power", _power, text)
    command.add_argument(
        "--difference", type=float, required=True, metavar="D", help="in alignment score, such as 0.05"
    )
    command.add_argument("--power", type=float, default=0.8, metavar="P", help="chance to see it (default: 0.8)")
    spread = command.add_mutually_exclusive_group(required=True)
    spread.add_argument(
        "--from", dest="run_dir", type=Path, metavar="RUN", help="a run whose spread over seeds to take"
    )
    spread.add_argument("--sd", type=float, metavar="X", help="standard deviation over seeds of the paired differences")
    command.add_argument("--prompt-sd", type=float, metavar="X", help="with --sd: the part of it that prompts explain")
    command.add_argument("--contrast", type=names, metavar="A,B", help="with --from: methods (default: first declared)")
    command.add_argument("--contrasts", type=int, metavar="N", help="declared contrasts (default: the run's, or 1)")
    add_include_path(command)


def _power(options: argparse.Namespace) -> None:
    from sails_eval.analyses.power import Spread, report, spread_in

    if options.contrast and len(options.contrast) != 2:
        raise UserError(f"--contrast {','.join(options.contrast)}: name two methods, as in sails,lora")
    if options.run_dir and options.prompt_sd is not None:
        raise UserError("--prompt-sd goes with --sd; --from measures it")
    if options.run_dir:
        spread, contrasts = spread_in(options.run_dir, options.contrast, options.include_path)
    else:
        spread, contrasts = Spread(options.sd, options.prompt_sd or 0.0), 1
    given = contrasts if options.contrasts is None else options.contrasts
    print(report(spread, difference=options.difference, power_wanted=options.power, contrasts=given))
