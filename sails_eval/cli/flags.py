"""The flags that are keys of a comparison's configuration, and what each is for."""

import argparse
from pathlib import Path
from typing import Any

from sails_eval.core.names import names, renamed

HELP = {
    "--methods": "methods to compare, by name or recipe file (default: sails,lora,full; see: sails-eval methods list)",
    "--reference": "finished model to add as a row of its own, without training; repeatable: the folder of a model "
    "or an adapter, a hub id, openai:MODEL (server at OPENAI_BASE_URL), or the name of a reference of the pair, such "
    "as testbed-preference (default: none)",
    "--pair": "pair to use: the name of a shipped one (sails-eval pairs list) or a YAML file; compare takes several, "
    "A,B,C: independent base models, called organisms (default: testbed, the embedded pair; evaluate has no default)",
    "--model": "base model to use instead of a pair: a folder or hub id",
    "--chat-template": "Jinja file with the chat template (default: the pair's, else the tokenizer's, else a plain "
    "one for base models)",
    "--config": "YAML file whose keys are the names of the flags, without --; flags override it (default: none)",
    "--dtype": "dtype of the weights; auto: bfloat16 on a GPU that supports it, else float32 (default: the pair's, "
    "else auto)",
    "--attn-implementation": "attention implementation of transformers: eager, sdpa, flash_attention_2, … (default: "
    "the pair's, else the one that transformers chooses)",
    "--device": "device to run models on: cpu, cuda, cuda:N, or auto: the first GPU if there is one, else the CPU "
    "(default: auto)",
    "--rank": "rank of the adapters (default: the pair's; with --model 16)",
    "--alpha": "LoRA alpha (default: the pair's; with --model 16)",
    "--target-modules": "linear modules to put adapters on (default: the pair's; with --model those of the model's "
    "attention)",
    "--max-length": "maximum length of a training example in tokens; longer ones are truncated (default: the pair's, "
    "usually 1024)",
    "--max-new-tokens": "maximum length of an answer to a judged task in tokens (default: set by each task)",
    "--batch-size": "examples per optimiser step (default: the pair's, usually 16)",
    "--micro-batch-size": "examples per forward pass, a divisor of the batch size, or auto: as many as fit into "
    "memory, at most 2 on a CPU; affects time and memory, and results only by rounding (default: the pair's, usually "
    "auto)",
    "--gradient-checkpointing": "recompute activations to save memory: on, off, or auto: only if they do not fit "
    "otherwise (default: the pair's, usually auto; the flag without a value means on)",
    "--eval-batch-size": "prompts per batch when transformers generates answers, or auto: as many as fit into memory, "
    "up to 64 on a CPU and 128 on a GPU (default: the pair's, else auto)",
    "--end-loops": "end answers that only repeat themselves, and count them as broken: on or off; hf and vllm only "
    "(default: the pair's, usually on; the flag without a value means on; see: sails-eval docs engines)",
    "--learning-rate": "fixed learning rate instead of tuning: X for every method, or METHOD=X,METHOD=X naming every "
    "method that trains; cannot be combined with --learning-rates or --protocol confirm (default: tune)",
    "--sae": "folder of an SAE in SAELens format; repeat the flag for each layer (default: the pair's SAEs)",
    "--train": "training data (prompt/response, messages or chosen/rejected): a file, "
    "hf:ORG/NAME[/CONFIG][@REVISION][#SPLIT], or a YAML file that selects rows or mixes several sources (default: "
    "the pair's; see: sails-eval docs data)",
    "--contrast": "chosen/rejected data for methods that contrast examples, given like --train; needs "
    "--contrast-examples (default: the examples that each cell trains on)",
    "--contrast-examples": "number of contrast examples to draw per seed: N, all, or sample: the examples that the "
    "cell trains on (default: the pair's, usually sample)",
    "--tokens": "training budget of each cell (one training run) in tokens, without padding (default: the pair's; "
    "with --model 100000)",
    "--regularise": "regulariser for every method: kl=0.1 adds 0.1 × KL(base ‖ model) per answer token to the loss "
    "(default: the pair's, usually none)",
    "--steps": "training budget of each cell in optimiser steps, instead of --tokens; compare takes several, N,N,N, "
    "and runs each with every value of --examples (default: set by --tokens)",
    "--examples": "labelled examples to draw per seed; compare takes several, N,N,N, and draws budget curves: the "
    "token budget stays the same, so fewer examples are repeated more often (default: the pair's, else all)",
    "--tasks": "tasks or groups of tasks to evaluate on (default: the pair's; see: sails-eval tasks list)",
    "--include-path": "additional folder with tasks, besides the bundled ones and ./tasks; repeatable (default: none)",
    "--task-data": "local copy of a task's or benchmark's data, to use instead of the hub's; repeatable (default: "
    "look in the folder $SAILS_EVAL_DATA, then on the hub)",
    "--send-to": "host of a judge that may receive the prompts of gated data sets; repeatable (default: none)",
    "--limit": "number of prompts to use from each task, the first N; for a quick look (default: all)",
    "--judge": "judge of the answers: testbed, grammar, rules, hf:MODEL, openai:MODEL, zoo:NAME or a plug-in, each "
    "with options as in hf:MODEL?key=value&key=value; J,J,J is a panel, cascade:J,J a cascade "
    "(default: the pair's)",
    "--allow-self-judging": "allow a judge that is the evaluated model itself (default: refused)",
    "--trust-remote-code": "allow zoo judges to run code from their model repositories (default: refused)",
    "--trust-tasks": "turn off the warning about tasks that run Python code or templates of their own (default: warn)",
    "--calibration": "calibration of the judge to report on the board, a file written by 'judge calibrate' (default: "
    "look in ./calibrations)",
    "--engine": "inference engine that generates the answers: hf (transformers), vllm, openai:BASE_URL (a server "
    "that serves the model, such as 'vllm serve'), a plug-in, or auto: vllm if it is installed and there is a GPU, "
    "else hf (default: auto)",
    "--organisms": "number of testbed organisms (independently pre-trained models) to use, instead of --pair; 3 "
    "ship, 'sails-eval testbed build --organisms N' makes more (default: use --pair)",
    "--protocol": "how rates are chosen and tested; explore: each seed is tested at the learning rate that is best for "
    "the other seeds; confirm: rates are tuned on separate seeds, and a few comparisons, fixed in advance, are tested "
    "on new seeds (default: explore; see: sails-eval docs protocol)",
    "--seeds": "seeds per learning rate; with --protocol confirm: test seeds on each pair (default: 5, with --quick 2)",
    "--tuning-seeds": "additional seeds on each pair for tuning learning rates; only with --protocol confirm "
    "(default: 2)",
    "--learning-rates": "number of learning rates to try within each method's range (default: 6, with --quick 2; with "
    "--protocol confirm: a grid in steps of a factor of 2, then two rates next to the best one)",
    "--checkpoints": "early stopping: evaluate each cell at N equally spaced steps and keep the best on validation; "
    "each counts as a tuning trial (default: 1, the last step)",
    "--quick": "run a smoke test: 2 learning rates and 2 seeds, to see that everything works; nothing is ranked, and "
    "it cannot be published",
    "--match": "budget to match between cells: the tokens of --tokens, or the FLOPs or seconds that the cheapest "
    "method needs for them, preparation included; more expensive methods then train on fewer tokens (default: "
    "tokens; see: sails-eval docs budgets)",
    "--match-params": "give each adapter the rank at which it trains as many parameters as plain LoRA at the pair's "
    "rank (default: off)",
    "--comparisons": "differences between rows to test, in alignment score or in another METRIC (default: sails "
    "against every other row; with --protocol confirm see: sails-eval docs protocol)",
    "--allow-overlap": "allow more than 5 %% of a task's prompts to occur in the training or contrast data (default: "
    "refused)",
    "--allow-poor-saes": "allow SAEs that explain less than 0.3 of the variance of the activations (default: refused)",
    "--jobs": "worker processes, one thread each (default: 1)",
    "--keep": "checkpoints to keep: those at the chosen learning rates (best), all or none (default: best)",
    "--out": "run folder; an existing run is resumed (default: a folder in ./runs named after the pair and the "
    "settings)",
    "--add": "methods to add to the run named by --against (default: none)",
    "--against": "finished run to extend: its configuration is used, and those of its cells are reused whose "
    "settings, code and files have not changed (default: none; a new comparison)",
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
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number or a list of them (N or N,N,…)") from None


def listed(text: str) -> str:
    """A list that is kept as text, with commas."""
    return text


def number_or_word(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def add_model(command: argparse.ArgumentParser) -> None:
    """The flags that say which model; a flag overrides what the pair has."""
    model = command.add_argument_group("model")
    flag(model, "--pair", "NAME", type=listed)
    flag(model, "--model", "MODEL")
    flag(model, "--chat-template", "FILE", type=Path)
    flag(model, "--config", "FILE", type=Path)
    flag(model, "--device", "DEVICE")
    flag(model, "--dtype", choices=("auto", "float32", "bfloat16", "float16"))
    flag(model, "--attn-implementation", "NAME")


def add_training(command: argparse.ArgumentParser) -> None:
    training = command.add_argument_group("training")
    flag(training, "--sae", "DIR", type=Path, action="append")
    switch(training, "--allow-poor-saes")
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
    switch(judging, "--trust-tasks")
    flag(judging, "--send-to", "HOST", action="append")
    flag(judging, "--limit", "N", type=int)
    flag(judging, "--max-new-tokens", "N", type=int)
    flag(judging, "--judge", "JUDGE", type=listed)
    switch(judging, "--allow-self-judging")
    switch(judging, "--trust-remote-code")
    flag(judging, "--calibration", "FILE.json", type=Path)


def add_engine(command: argparse.ArgumentParser) -> None:
    engine = command.add_argument_group("engine")
    flag(engine, "--engine", "ENGINE")
    flag(engine, "--eval-batch-size", "N|auto", type=number_or_word)
    flag(engine, "--end-loops", nargs="?", const="on", choices=("on", "off"))


def add_comparison(command: argparse.ArgumentParser) -> None:
    """All of them, as compare and plan take them."""
    flag(command, "--methods", "A,B", type=names)
    flag(command, "--reference", "MODEL", action="append")
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
    more = command.add_argument_group("extending an earlier run")
    flag(more, "--add", "A,B", type=names)
    flag(more, "--against", "RUN", type=Path)
