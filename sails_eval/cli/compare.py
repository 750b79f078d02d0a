"""The commands compare, plan, train and evaluate."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import add_command, print_usage, read_config
from sails_eval.cli.flags import add_comparison, add_engine, add_judging, add_model, add_training


def add(commands: Any) -> None:
    text = "Train methods on the same budget, judge their answers and write a leaderboard."
    command = add_command(commands, "compare", _compare, text)
    add_comparison(command)
    command.add_argument("--dry-run", action="store_true", help="only say what 'sails-eval plan' says")
    text = "What a comparison takes (parameters, FLOPs, memory, verdicts, disk) and what is missing for it."
    add_comparison(add_command(commands, "plan", _plan, text))

    command = add_command(commands, "train", _train, "Train one method at one learning rate and seed.")
    command.add_argument("method", metavar="METHOD", help="a recipe's name or YAML file")
    add_model(command)
    add_training(command)
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="an empty or new folder")

    text = "Have an adapter or a model answer the tasks, and judge its answers."
    command = add_command(commands, "evaluate", _evaluate, text)
    command.add_argument("target", metavar="ADAPTER_OR_MODEL", help="a PEFT adapter's folder, a model's, or a hub id")
    add_model(command)
    add_judging(command)
    add_engine(command)
    command.add_argument("--name", help="what to call the row (default: the folder's name)")
    command.add_argument("--out", type=Path, metavar="DIR", help="run folder")


def _plan(options: argparse.Namespace) -> int:
    """Status 1 where something is missing that would stop the run."""
    from sails_eval.plan.cost.forecast import forecast, render
    from sails_eval.run.folder.reuse import extended
    from sails_eval.run.workers import quiet_libraries

    quiet_libraries()
    made = forecast(extended(read_config(options)))
    print("\n\n".join(render(one) for one in made))
    return int(any(problem.stops for one in made for problem in one.problems))


def _compare(options: argparse.Namespace) -> int:
    from sails_eval.run.compare import compare

    if options.dry_run:
        return _plan(options)
    _print_run(compare(read_config(options), quiet=options.quiet))
    return 0


def _train(options: argparse.Namespace) -> None:
    from sails_eval.run.evaluate import train_one
    from sails_eval.run.folder.run_folder import ModelFolder

    config = read_config(options, methods=(options.method,))
    record = train_one(config, seed=options.seed, out=options.out)
    losses = record.losses
    print(f"{record.tokens} tokens in {record.steps} steps, loss {losses[0]:.3f} → {losses[-1]:.3f}")
    print(f"written to {ModelFolder(options.out).checkpoint}")


def _evaluate(options: argparse.Namespace) -> None:
    from sails_eval.run.evaluate import evaluate

    _print_run(evaluate(read_config(options), options.target, name=options.name, quiet=options.quiet))


def _print_run(run: Path) -> None:
    from sails_eval.cli.show import show

    print(show(run))
    print_usage(run)
    print(f"written to {run}")
