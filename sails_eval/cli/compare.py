"""The commands compare, plan, train and evaluate."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, print_usage, read_config
from sails_eval.cli.flags import add_comparison, add_engine, add_judging, add_model, add_training
from sails_eval.core.tables import add_wide


def add(commands: Any) -> None:
    text = "Train methods at the same budget, judge their answers and write a leaderboard."
    command = add_command(commands, "compare", _compare, text)
    add_comparison(command)
    add_wide(command)
    command.add_argument("--dry-run", action="store_true", help="train nothing; print the output of 'sails-eval plan'")
    text = "Estimate the cost of a comparison (parameters, FLOPs, memory, verdicts, disk) and list what is missing."
    command = add_command(commands, "plan", _plan, text)
    add_comparison(command)
    add_wide(command)

    command = add_command(commands, "train", _train, "Train one method at one learning rate and seed.")
    command.add_argument("method", metavar="METHOD", help="method to train: its name or recipe file (YAML)")
    add_model(command)
    add_training(command)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="random seed (default: 0)")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder for the result")

    text = "Generate the answers of an adapter or a model to the tasks, and judge them."
    command = add_command(commands, "evaluate", _evaluate, text)
    text = "what to evaluate: the folder of a PEFT adapter (with --pair or --model for its base model) or of a model, "
    text += "a hub id, or openai:MODEL (server at OPENAI_BASE_URL)"
    command.add_argument("target", metavar="ADAPTER_OR_MODEL", help=text)
    add_model(command)
    add_judging(command)
    add_engine(command)
    command.add_argument("--name", help="name of the row on the leaderboard (default: the folder's name)")
    text = "run folder; an existing run is resumed (default: a new folder in ./runs)"
    command.add_argument("--out", type=Path, metavar="DIR", help=text)
    add_wide(command)


def _plan(options: argparse.Namespace) -> int:
    """Status 2 where something is missing that would stop the run, as of `compare`."""
    config = _opened(options)
    from sails_eval.core.device import used
    from sails_eval.core.remembered import remembered
    from sails_eval.plan.keys import plan_key
    from sails_eval.run.check import check_place, refusals
    from sails_eval.run.folder.reuse import extended

    against, config = config.against, extended(config)

    def make() -> str:
        from sails_eval.plan.cost.forecast import forecast
        from sails_eval.plan.cost.shown import render
        from sails_eval.run.workers import quiet_libraries

        quiet_libraries()
        made = forecast(config)
        told = [problem for one in made for problem in one.problems]
        if not any(problem.stops for problem in told):
            more = refusals(config, told={problem.told for problem in told})
            made[0] = replace(made[0], problems=(*made[0].problems, *more))
        stops = any(problem.stops for one in made for problem in one.problems)
        return f"{2 if stops else 0}\n" + "\n\n".join(map(render, made))

    with used(config.device):
        check_place(config, against)
        key = plan_key(config)  # names are checked here; steps on shapes take torch, and say the same every time
    status, _, text = (make() if key is None else remembered("plan", key, make)).partition("\n")
    print(text)
    return int(status)


def _compare(options: argparse.Namespace) -> int:
    if options.dry_run:
        return _plan(options)
    config = _opened(options)
    from sails_eval.run.compare import compare

    run = compare(config, quiet=options.quiet)
    _print_run(run)
    return _tell_failed(run)


def _opened(options: argparse.Namespace, **fixed: Any) -> Any:
    """The configuration, once the line on what this runs on is on the screen: what is imported next takes a while."""
    from sails_eval.core.opening import opening
    from sails_eval.core.progress import say

    config = read_config(options, **fixed)
    for line in opening(config):
        say(line, quiet=options.quiet)
    return config


def _train(options: argparse.Namespace) -> None:
    config = _opened(options, methods=(options.method,))
    from sails_eval.run.evaluate import train_one
    from sails_eval.run.folder.model_folder import ModelFolder

    record = train_one(config, seed=options.seed, out=options.out, quiet=options.quiet)
    losses = record.losses
    print(f"{record.tokens} tokens in {record.steps} steps, loss {losses[0]:.3f} → {losses[-1]:.3f}")
    print(f"written to {ModelFolder(options.out).checkpoint}")


def _evaluate(options: argparse.Namespace) -> None:
    from sails_eval.core.progress import say

    on = options.pair or options.model
    say(f"evaluating {options.target}{f' on {on}' if on else ''}", quiet=options.quiet)
    from sails_eval.run.evaluate import evaluate

    _print_run(evaluate(read_config(options), options.target, name=options.name, quiet=options.quiet))


def _tell_failed(run: Path) -> int:
    """Print why rows have no score; the exit status."""
    import sys

    from sails_eval.run.folder.run_folder import RunFolder

    told = []
    for one in RunFolder(run).with_sub_runs():
        where = "" if one.path == run else f" on {one.path.relative_to(run)}"
        rows = one.failed().rows if one.failed.exists else {}
        told += [f"{row} has no score{where}: {why}" for row, why in rows.items()]
    for line in told:
        print(f"sails-eval: {line}; give the same command again to retry", file=sys.stderr)
    return 1 if told else 0


def _print_run(run: Path) -> None:
    from sails_eval.cli.show import show
    from sails_eval.run.folder.run_folder import RunFolder
    from sails_eval.run.overview import kept_checkpoints

    print(show(run))
    if kept := list(kept_checkpoints(RunFolder(run))):
        print("checkpoints at the chosen learning rates:", *kept, sep="\n")
    print_usage(run)
    print(f"written to {run}")
