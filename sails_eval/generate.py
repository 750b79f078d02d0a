"""Have a model answer a task through lm-eval, and keep its completions."""

from __future__ import annotations

import hashlib
from typing import Any

from sails_eval.config import Pair
from sails_eval.records import Completion, Split
from sails_eval.tasks import TaskInfo, load_task


def complete(model: Any, tokenizer: Any, pair: Pair, *, task: TaskInfo, split: Split) -> list[Completion]:
    """The model's answers to every prompt of one split of a task, in the task's order.

    Generation settings are the task's own. Prompts go through the chat template; the completion keeps them as the
    user wrote them.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    loaded = load_task(task, split)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=pair.eval_batch_size)
    outcome = evaluate(
        lm,
        {"tasks": {task.name: loaded}, "groups": {}, "group_map": {}},
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
