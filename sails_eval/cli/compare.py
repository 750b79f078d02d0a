"""The commands compare, plan, train and evaluate."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.cli.common import (
    add_command,
    add_engine,
    add_judging,
    add_model,
    add_training,
    print_usage,
    read_config,
)
from sails_eval.core.names import names


def add(commands: Any) -> None:
    """Add the commands."""
    _add_compare(commands)
    _add_train(commands)
    _add_evaluate(commands)


def _add_compare(commands: Any) -> None:
    text = "Train methods on the same budget, judge their answers and write a leaderboard."
    command = add_command(commands, "compare", _compare, text)
    _add_comparison(command)
    command.add_argument("--dry-run", action="store_true", help="only say what 'sails-eval plan' says")
    text = "What a comparison takes (parameters, FLOPs, memory, verdicts, disk) and what is missing for it."
    _add_comparison(add_command(commands, "plan", _plan, text))


def _add_comparison(command: argparse.ArgumentParser) -> None:
    """The flags of compare, which plan takes, too."""
    command.add_argument("--methods", type=names, metavar="A,B", help="recipes (default: sails,lora,full)")
    command.add_argument(
        "--reference",
        action="append",
        metavar="M",
        help="a finished model that is a row, too, once for each: the folder of a model or an adapter, a hub id, "
        "openai:MODEL (behind OPENAI_BASE_URL), or one of the pair's references by name (testbed-preference)",
    )
    add_model(command)
    add_training(command)
    add_judging(command)
    add_engine(command)
    size = command.add_argument_group("size and output")
    size.add_argument("--seeds", type=int, metavar="N", help="seeds per learning rate (default: 5)")
    size.add_argument("--learning-rates", type=int, metavar="N", help="rates over each recipe's span (default: 6)")
    size.add_argument(
        "--checkpoints",
        type=int,
        metavar="N",
        help="early stopping: judge each cell at N equally spaced steps and keep the best on validation; each is a "
        "tuning trial (default: 1, the end)",
    )
    size.add_argument("--quick", action="store_true", default=None, help="2 rates, 2 seeds: a look, not a result")
    size.add_argument(
        "--match",
        choices=("tokens", "flops", "seconds"),
        help="what every cell gets the same amount of: --tokens, or what the cheapest method takes for them, with its "
        "preparation; costlier ones then train on fewer (default: tokens; docs/budgets.md)",
    )
    size.add_argument(
        "--match-params",
        action="store_true",
        default=None,
        help="give adapters the rank at which they train as many parameters as plain LoRA does at the pair's",
    )
    size.add_argument(
        "--contrasts",
        type=names,
        metavar="A:B,A:C",
        help="the differences between rows that are tested (default: sails against every other row)",
    )
    size.add_argument(
        "--allow-overlap",
        action="store_true",
        default=None,
        help="even if more than 5 %% of a task's prompts stand in the training or contrast data",
    )
    size.add_argument("--jobs", type=int, metavar="N", help="worker processes of one thread each (default: 1)")
    size.add_argument("--keep", choices=("best", "all", "none"), help="which checkpoints to keep (default: best)")
    size.add_argument("--out", type=Path, metavar="DIR", help="run folder; an existing one is gone on with")
    more = command.add_argument_group("an earlier run with more methods")
    more.add_argument("--add", type=names, metavar="A,B", help="recipes to compare with those of --against")
    more.add_argument(
        "--against",
        type=Path,
        metavar="RUN",
        help="a finished run: its configuration is taken over, and its cells are reused where all that determines "
        "them is the same and their files are as they were",
    )


def _add_train(commands: Any) -> None:
    command = add_command(commands, "train", _train, "Train one method at one learning rate and seed.")
    command.add_argument("method", metavar="METHOD", help="a recipe's name or YAML file")
    add_model(command)
    add_training(command)
    command.add_argument("--learning-rate", type=float, metavar="X", help="default: the middle of the recipe's span")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="an empty or new folder")


def _add_evaluate(commands: Any) -> None:
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
    from sails_eval.cli.show import show
    from sails_eval.run.compare import compare

    if options.dry_run:
        return _plan(options)
    run = compare(read_config(options), quiet=options.quiet)
    print(show(run))
    print_usage(run)
    print(f"written to {run}")
    return 0


def _train(options: argparse.Namespace) -> None:
    from sails_eval.run.evaluate import train_one

    config = read_config(options, methods=(options.method,))
    record = train_one(config, rate=options.learning_rate, seed=options.seed, out=options.out)
    losses = record.losses
    print(f"{record.tokens} tokens in {record.steps} steps, loss {losses[0]:.3f} → {losses[-1]:.3f}")
    print(f"written to {options.out / 'checkpoint'}")


def _evaluate(options: argparse.Namespace) -> None:
    from sails_eval.cli.show import show
    from sails_eval.run.evaluate import evaluate

    run = evaluate(read_config(options), options.target, name=options.name, quiet=options.quiet)
    print(show(run))
    print_usage(run)
    print(f"written to {run}")
