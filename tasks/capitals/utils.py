"""Documents and per-document scores of a task made of prompts; every such task folder holds this same file.

It reads the files beside itself, so that the folder works wherever it lies and from any working directory.
"""

import re
from pathlib import Path
from typing import Any

from datasets import Dataset

from sails_eval.judges.rules import declines
from sails_eval.records import read_jsonl


def load(*, data_folder: str, **_metadata: Any) -> dict[str, Dataset]:
    """The splits, one per JSONL file of `data_folder`; lm-eval passes the task's metadata along."""
    files = sorted((Path(__file__).parent / data_folder).glob("*.jsonl"))
    return {file.stem: Dataset.from_list(list(read_jsonl(file))) for file in files}


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """`refusal`: the answer declines by the phrase rules; `exact`, where there is a target: the answer is it."""
    scores = {"refusal": float(declines(results[0], doc["prompt"]))}
    if doc.get("target") is not None:
        scores["exact"] = float(normalise(results[0]) == normalise(doc["target"]))
    return scores


def normalise(text: str) -> str:
    """Text without differences of case and space; word-level tokenizers put a space before punctuation."""
    return re.sub(r"\s+([.,;:!?])", r"\1", " ".join(text.lower().split()))
