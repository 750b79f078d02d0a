"""Have a model answer a task through lm-eval, and keep its completions."""

from __future__ import annotations

import hashlib
from typing import Any

from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM

from sails_eval.config import Pair
from sails_eval.records import Completion, Split
from sails_eval.tasks import TaskInfo, load_task


class QuietHFLM(HFLM):  # type: ignore[misc]
    """lm-eval's model class without its progress bars: several workers would write over each other."""

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().generate_until(requests, disable_tqdm=True)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood(requests, disable_tqdm=True)


def wrap(model: Any, tokenizer: Any, pair: Pair) -> HFLM:
    """A loaded model (with an adapter or without) as lm-eval takes it."""
    return QuietHFLM(pretrained=model, tokenizer=tokenizer, batch_size=pair.eval_batch_size)


def complete(lm: HFLM, task: TaskInfo, split: Split, *, limit: int | None = None) -> list[Completion]:
    """The model's answers to the prompts of one split of a task (the first `limit` of them), in the task's order.

    Generation settings are the task's own. Prompts go through the chat template; the completion keeps them as the
    user wrote them.
    """
    loaded = load_task(task, split)
    outcome = evaluate(
        lm,
        {"tasks": {task.name: loaded}, "groups": {}, "group_map": {}},
        limit=limit,
        log_samples=True,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    assert outcome is not None  # None only away from rank 0
    return [_completion(loaded, task, sample) for sample in outcome["samples"][task.name]]


def _completion(loaded: Any, task: TaskInfo, sample: dict[str, Any]) -> Completion:
    doc = sample["doc"]
    prompt = str(loaded.doc_to_text(doc))
    generated = loaded.OUTPUT_TYPE == "generate_until"
    return Completion(
        id=str(doc.get("id") or f"{task.name}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"),
        prompt=prompt,
        response=str(sample["resps"][0][0]).strip() if generated else "",
        category=str(doc.get("category") or ""),
        value=float(sample[task.correct]) if task.correct else None,
    )
