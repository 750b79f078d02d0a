"""What commands have in common: flags for model, data, judge and engine, the configuration made of them, printing."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.core.names import names


def add_command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A command with its function, help text and the flags that all have."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text.replace("%", "%%"), description=text)
    command.set_defaults(run_command=run)
    noise = command.add_mutually_exclusive_group()
    noise.add_argument("-v", "--verbose", action="store_true", help="print what is logged, too")
    noise.add_argument("-q", "--quiet", action="store_true", help="no progress bars, only the outcome")
    return command


def add_group(commands: Any, name: str, text: str, what: str = "action") -> Any:
    """A command that only has further ones, its actions, which are to be added to what is returned."""
    group = commands.add_parser(name, help=text)
    return group.add_subparsers(title=f"{what}s", metavar=what.upper(), required=True)


def add_include_path(command: argparse.ArgumentParser) -> None:
    """The flag for the tasks of a finished run."""
    command.add_argument(
        "--include-path", type=Path, action="append", default=[], metavar="DIR", help="of the run's tasks"
    )


def numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not N or N,N,…") from None


def add_model(command: argparse.ArgumentParser) -> None:
    """The flags that say which model, data and judge; a flag overrides what the pair has."""
    model = command.add_argument_group("model")
    model.add_argument(
        "--pair",
        metavar="NAME",
        help="a shipped pair (sails-eval pairs list) or a pair's YAML; compare takes several, A,B,C, as organisms "
        "(default: testbed, the embedded one)",
    )
    model.add_argument("--model", metavar="M", help="instead of a pair: a model's folder or hub id")
    model.add_argument("--chat-template", type=Path, metavar="FILE", help="Jinja file, for a tokenizer without one")
    model.add_argument("--config", type=Path, metavar="FILE", help="YAML with the same names as the flags; flags win")


def add_training(command: argparse.ArgumentParser) -> None:
    data = command.add_argument_group("training")
    data.add_argument("--sae", type=Path, action="append", metavar="DIR", help="a SAELens folder, once for each layer")
    text = "prompt/response, messages or chosen/rejected data: a file, hf:ORG/NAME[/CONFIG][@REVISION][#SPLIT], or a "
    text += "YAML file that chooses of one or mixes several (docs/data.md)"
    data.add_argument("--train", metavar="DATA", help=text)
    data.add_argument("--contrast", metavar="DATA", help="chosen/rejected data that SAILS contrasts, named likewise")
    data.add_argument("--tokens", type=int, metavar="N", help="tokens to train each cell on")
    data.add_argument(
        "--regularise",
        metavar="NAME=X",
        help="kl=0.1 adds 0.1 × KL(base ‖ model) per answer token to the loss of every method",
    )
    data.add_argument(
        "--examples",
        type=numbers,
        metavar="N",
        help="labelled examples drawn per seed; compare takes several, N,N,N, and draws budget curves: the tokens "
        "stay the same, so fewer examples are seen more often",
    )


def add_send_to(command: Any) -> None:
    """The flag for a judge elsewhere that is asked about gated sets."""
    command.add_argument(
        "--send-to",
        action="append",
        metavar="HOST",
        help="a judge's host that the prompts of gated sets may be sent to",
    )


def add_judging(command: argparse.ArgumentParser) -> None:
    judging = command.add_argument_group("tasks and judge")
    judging.add_argument("--tasks", type=names, metavar="A,B", help="tasks or groups (see: sails-eval tasks list)")
    judging.add_argument(
        "--include-path", type=Path, action="append", metavar="DIR", help="another folder of tasks, besides ./tasks"
    )
    judging.add_argument(
        "--task-data",
        action="append",
        metavar="NAME=FILE",
        help="a local copy of a task's or a benchmark's data, instead of the hub's (or a folder of copies: "
        "$SAILS_EVAL_DATA)",
    )
    add_send_to(judging)
    judging.add_argument("--limit", type=int, metavar="N", help="only the first N prompts of every task, for a look")
    judging.add_argument(
        "--judge",
        metavar="J",
        help="testbed, grammar, rules, hf:MODEL, openai:MODEL, zoo:NAME or one of a package of yours, each with its "
        "options as in hf:MODEL?key=value&key=value; J,J,J is a panel",
    )
    judging.add_argument(
        "--allow-self-judging",
        action="store_true",
        default=None,
        help="even if the judge is the evaluated model itself",
    )
    judging.add_argument(
        "--trust-remote-code",
        action="store_true",
        default=None,
        help="let judges of the zoo run code from their models' repositories",
    )
    judging.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE.json",
        help="the judge's, by 'judge calibrate', for the board to name (default: those in ./calibrations)",
    )


def add_engine(command: argparse.ArgumentParser) -> None:
    command.add_argument_group("engine").add_argument(
        "--engine",
        metavar="E",
        help="what has the models answer: hf (transformers), vllm, openai:BASE_URL (a server that has the model, as "
        "'vllm serve' does), one of a package of yours, or auto: vllm where it is installed and a GPU is there, else "
        "hf (default: auto)",
    )


def read_config(options: argparse.Namespace, **fixed: Any) -> Any:
    """The configuration: the file's keys, overridden by the flags that were given."""
    from sails_eval.core.comparison import CompareConfig
    from sails_eval.core.schema import read_mapping, validate

    where, values = "command line", {}
    if options.config:
        where, values = str(options.config), read_mapping(options.config)
        validate(CompareConfig, values, where=where)
    flags = {key: value for key in CompareConfig.model_fields if (value := getattr(options, key, None)) is not None}
    if {"pair", "model"} & flags.keys():  # one of them on the command line replaces either in the file
        values = {key: value for key, value in values.items() if key not in ("pair", "model")}
    return validate(CompareConfig, {**values, **flags, **fixed}, where=where)


def print_usage(run: Path) -> None:
    """Print what the judges of a run have used so far, as far as they count it."""
    from sails_eval.judges.usage import told
    from sails_eval.run.folder.run_folder import RunFolder

    for line in told(RunFolder(run).usage()):
        print(line)


def report_problems(problems: list[str], path: Path) -> int:
    """Print them; the exit status."""
    for problem in problems:
        print(problem)
    print(f"{path}: {f'{len(problems)} problems' if problems else 'in order'}")
    return 1 if problems else 0
