"""The flags that are keys of a comparison's configuration, and what each is for."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.core.names import names, renamed

HELP = {
    "--methods": "recipes (default: sails,lora,full)",
    "--reference": "a finished model that is a row, too, once for each: the folder of a model or an adapter, a hub id, "
    "openai:MODEL (behind OPENAI_BASE_URL), or one of the pair's references by name (testbed-preference)",
    "--pair": "a shipped pair (sails-eval pairs list) or a pair's YAML; compare takes several, A,B,C, as organisms "
    "(default: testbed, the embedded one)",
    "--model": "instead of a pair: a model's folder or hub id",
    "--chat-template": "Jinja file of the chat template (default: the pair's, else the tokenizer's own, else a plain "
    "one for base models)",
    "--config": "YAML with the same names as the flags; flags win",
    "--dtype": "dtype of the weights, instead of the pair's; auto: bfloat16 on a GPU that computes in it, else float32 "
    "(default: the pair's; of a pair that names none, and of --model: auto)",
    "--attn-implementation": "transformers' attention, instead of the pair's: eager, sdpa, flash_attention_2, … "
    "(default: the pair's, else transformers' own choice)",
    "--device": "device that models run on: cpu, cuda, cuda:N, or auto: the first GPU if there is one, else the CPU "
    "(default: auto)",
    "--rank": "rank of the adapters, instead of the pair's (default: the pair's; with --model 16)",
    "--alpha": "LoRA's alpha, instead of the pair's (default: the pair's; with --model 16)",
    "--target-modules": "linear modules that adapters are put onto, instead of the pair's (default: the pair's; with "
    "--model q_proj,k_proj,v_proj,o_proj)",
    "--max-length": "tokens of the longest training example, longer ones are cut; instead of the pair's (default: the "
    "pair's, usually 1024)",
    "--max-new-tokens": "tokens of the longest answer to a judged task (default: as each task says)",
    "--batch-size": "examples per optimiser step, instead of the pair's (default: the pair's, usually 16)",
    "--micro-batch-size": "examples per forward pass, a divisor of the batch size, or auto: as many as fit into "
    "memory; it changes time and memory, and results by rounding alone (default: the pair's, usually auto)",
    "--gradient-checkpointing": "activations computed twice to save memory: on, off, or auto: where they would not fit "
    "(default: the pair's, usually auto; without a word: on)",
    "--eval-batch-size": "prompts that transformers answers at a time, instead of the pair's (default: the pair's; "
    "with --model 16)",
    "--learning-rate": "learning rate instead of a grid: X for every method, or METHOD=X,METHOD=X with all that train; "
    "nothing is tuned then, so not with --learning-rates or --protocol confirm",
    "--sae": "a SAELens folder, once for each layer",
    "--train": "prompt/response, messages or chosen/rejected data: a file, hf:ORG/NAME[/CONFIG][@REVISION][#SPLIT], or "
    "a YAML file that chooses of one or mixes several (see: sails-eval docs data)",
    "--contrast": "chosen/rejected data to contrast instead of the training sample, named likewise",
    "--contrast-examples": "how many of these: N, drawn by the seed, or all; or sample: those trained on (default)",
    "--tokens": "tokens to train each cell on",
    "--regularise": "kl=0.1 adds 0.1 × KL(base ‖ model) per answer token to the loss of every method",
    "--steps": "instead of --tokens: optimiser steps to train each cell; compare takes several, with every number of "
    "--examples",
    "--examples": "labelled examples drawn per seed; compare takes several, N,N,N, and draws budget curves: the tokens "
    "stay the same, so fewer examples are seen more often",
    "--tasks": "tasks or groups (see: sails-eval tasks list)",
    "--include-path": "another folder of tasks, besides ./tasks",
    "--task-data": "a local copy of a task's or a benchmark's data, instead of the hub's (or a folder of copies: "
    "$SAILS_EVAL_DATA)",
    "--send-to": "a judge's host that the prompts of gated sets may be sent to",
    "--limit": "only the first N prompts of every task, for a look",
    "--judge": "testbed, grammar, rules, hf:MODEL, openai:MODEL, zoo:NAME or one of a package of yours, each with its "
    "options as in hf:MODEL?key=value&key=value; J,J,J is a panel",
    "--allow-self-judging": "even if the judge is the evaluated model itself",
    "--trust-remote-code": "let judges of the zoo run code from their models' repositories",
    "--calibration": "the judge's, by 'judge calibrate', for the board to name (default: those in ./calibrations)",
    "--engine": "what has the models answer: hf (transformers), vllm, openai:BASE_URL (a server that has the model, as "
    "'vllm serve' does), one of a package of yours, or auto: vllm where it is installed and a GPU is there, else hf "
    "(default: auto)",
    "--organisms": "instead of --pair: the first N organisms of the testbed (3 ship; sails-eval testbed build "
    "--organisms N makes more)",
    "--protocol": "explore: the same seeds choose rates and are tested, each at the rate that the others choose; "
    "confirm: rates are tuned on seeds of their own and tested on fresh ones, with few comparisons, fixed before "
    "(default: explore; see: sails-eval docs protocol)",
    "--seeds": "seeds per learning rate; with --protocol confirm those of the test, on each pair (default: 5)",
    "--tuning-seeds": "with --protocol confirm: further seeds on each pair, to tune rates on (default: 2)",
    "--learning-rates": "rates over each recipe's span (default: 6; with --protocol confirm as many as lie a factor of "
    "2 apart, and then two beside the best one)",
    "--checkpoints": "early stopping: judge each cell at N equally spaced steps and keep the best on validation; each "
    "is a tuning trial (default: 1, the end)",
    "--quick": "smoke test: 2 learning rates and 2 seeds show that everything runs; nothing is ranked or published",
    "--match": "what every cell gets the same amount of: --tokens, or what the cheapest method takes for them, with "
    "its preparation; costlier ones then train on fewer (default: tokens; see: sails-eval docs budgets)",
    "--match-params": "give adapters the rank at which they train as many parameters as plain LoRA does at the pair's",
    "--comparisons": "the differences between rows that are tested, in alignment score or another METRIC (default: "
    "sails against every other row; with --protocol confirm, where the metric is refusal, those of: sails-eval docs "
    "protocol)",
    "--allow-overlap": "even if more than 5 %% of a task's prompts stand in the training or contrast data",
    "--jobs": "worker processes of one thread each (default: 1)",
    "--keep": "which checkpoints to keep (default: best)",
    "--out": "run folder; an existing one is gone on with",
    "--add": "recipes to compare with those of --against",
    "--against": "a finished run: its configuration is taken over, and its cells are reused where all that determines "
    "them is the same and their files are as they were",
}


def flag(group: Any, name: str, metavar: str | None = None, **kind: Any) -> None:
    group.add_argument(name, metavar=metavar, help=HELP[name], **kind)


def switch(group: Any, name: str) -> None:
    """Add a flag without a value; not given, it leaves what the configuration's file says."""
    group.add_argument(name, action="store_true", default=None, help=HELP[name])


def numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not N or N,N,…") from None


def listed(text: str) -> str:
    """A list that is kept as text, with commas."""
    return text


def number_or_word(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def add_model(command: argparse.ArgumentParser) -> None:
    """The flags that say which model; a flag overrides what the pair has."""
    model = command.add_argument_group("model")
    flag(model, "--pair", "NAME", type=listed)
    flag(model, "--model", "M")
    flag(model, "--chat-template", "FILE", type=Path)
    flag(model, "--config", "FILE", type=Path)
    flag(model, "--device", "D")
    flag(model, "--dtype", choices=("auto", "float32", "bfloat16", "float16"))
    flag(model, "--attn-implementation", "A")


def add_training(command: argparse.ArgumentParser) -> None:
    training = command.add_argument_group("training")
    flag(training, "--sae", "DIR", type=Path, action="append")
    flag(training, "--train", "DATA")
    flag(training, "--contrast", "DATA")
    flag(training, "--contrast-examples", "N", type=number_or_word)
    flag(training, "--tokens", "N", type=int)
    flag(training, "--regularise", "NAME=X")
    flag(training, "--examples", "N", type=numbers)
    flag(training, "--steps", "N", type=numbers)
    flag(training, "--learning-rate", "X", type=listed)
    flag(training, "--batch-size", "N", type=int)
    flag(training, "--micro-batch-size", "N|auto", type=number_or_word)
    flag(training, "--gradient-checkpointing", nargs="?", const="on", choices=("on", "off", "auto"))
    flag(training, "--max-length", "N", type=int)
    flag(training, "--rank", "N", type=int)
    flag(training, "--alpha", "N", type=int)
    flag(training, "--target-modules", "A,B", type=names)


def add_judging(command: argparse.ArgumentParser) -> None:
    judging = command.add_argument_group("tasks and judge")
    flag(judging, "--tasks", "A,B", type=names)
    flag(judging, "--include-path", "DIR", type=Path, action="append")
    flag(judging, "--task-data", "NAME=FILE", action="append")
    flag(judging, "--send-to", "HOST", action="append")
    flag(judging, "--limit", "N", type=int)
    flag(judging, "--max-new-tokens", "N", type=int)
    flag(judging, "--judge", "J", type=listed)
    switch(judging, "--allow-self-judging")
    switch(judging, "--trust-remote-code")
    flag(judging, "--calibration", "FILE.json", type=Path)


def add_engine(command: argparse.ArgumentParser) -> None:
    engine = command.add_argument_group("engine")
    flag(engine, "--engine", "E")
    flag(engine, "--eval-batch-size", "N", type=int)


def add_comparison(command: argparse.ArgumentParser) -> None:
    """All of them, as compare and plan take them."""
    flag(command, "--methods", "A,B", type=names)
    flag(command, "--reference", "M", action="append")
    add_model(command)
    add_training(command)
    add_judging(command)
    add_engine(command)
    size = command.add_argument_group("size and output")
    flag(size, "--organisms", "N", type=int)
    flag(size, "--protocol", choices=("explore", "confirm"))
    flag(size, "--seeds", "N", type=int)
    flag(size, "--tuning-seeds", "N", type=int)
    flag(size, "--learning-rates", "N", type=int)
    flag(size, "--checkpoints", "N", type=int)
    switch(size, "--quick")
    flag(size, "--match", choices=("tokens", "flops", "seconds"))
    switch(size, "--match-params")
    flag(size, "--comparisons", "A:B,A:C@METRIC", type=names)
    renamed(size, "--contrasts", "--comparisons", type=names)
    switch(size, "--allow-overlap")
    flag(size, "--jobs", "N", type=int)
    flag(size, "--keep", choices=("best", "all", "none"))
    flag(size, "--out", "DIR", type=Path)
    more = command.add_argument_group("an earlier run with more methods")
    flag(more, "--add", "A,B", type=names)
    flag(more, "--against", "RUN", type=Path)
