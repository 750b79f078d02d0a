"""Have a model answer a task through lm-eval, and keep its completions."""

from typing import Any

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import digest
from sails_eval.core.records import Completion, Split
from sails_eval.models.chat import encode_chat
from sails_eval.tasks.library import TaskInfo, load_task


def complete(lm: LM, task: TaskInfo, split: Split, *, limit: int | None = None) -> list[Completion]:
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
    samples = outcome["samples"][task.name]
    first = samples[0]["filter"]  # a task with several filters logs every document once for each
    return [_completion(loaded, task, sample) for sample in samples if sample["filter"] == first]


def document_id(task: TaskInfo, doc: dict[str, Any], number: int) -> str:
    """The id that a task of ours gives its document, else its number and a hash of its content."""
    if (task.data is not None or task.card is not None) and doc.get("id"):
        return str(doc["id"])
    return f"{task.name}-{number}-{digest({key: str(value) for key, value in doc.items()})[:8]}"


def check_documents(task: TaskInfo, split: Split, *, tokenizer: Any, context: int, limit: int | None) -> None:
    """See before anything is trained that a model can answer a task's documents and that they can be scored.

    Raises UserError for a document without a prompt, an id that comes twice, a prompt that leaves no room in the
    model's context of `context` tokens, or a task without the metric that its answers are scored by.
    """
    loaded = load_task(task, split)
    where = f"{task.path}: {split}"
    if task.kind == "capability" and task.correct not in loaded.aggregation():
        raise UserError(
            f"{where}: no per-document metric '{task.correct}'; name one out of {', '.join(loaded.aggregation())} as "
            "metadata.correct"
        )
    generated = loaded.OUTPUT_TYPE == "generate_until"
    room = context - int(loaded.config.generation_kwargs.get("max_gen_toks", 256)) if generated else context
    seen: set[str] = set()
    for number, doc in list(enumerate(loaded.eval_docs))[:limit]:
        prompt, identity = loaded.doc_to_text(doc), document_id(task, doc, number)
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"{where}: document {number + 1} has no prompt; add one, or remove the document")
        if identity in seen:
            raise UserError(f"{where}: two documents have the id '{identity}'; give each its own")
        seen.add(identity)
        length = len(encode_chat(tokenizer, [{"role": "user", "content": prompt}]))
        if length > room:
            raise UserError(
                f"{where}: document '{identity}' has {length} tokens and max_gen_toks leaves {room} of the model's "
                f"context of {context}; lower max_gen_toks or drop it"
            )


def _completion(loaded: Any, task: TaskInfo, sample: dict[str, Any]) -> Completion:
    doc = sample["doc"]
    prompt = str(loaded.doc_to_text(doc))
    generated = loaded.OUTPUT_TYPE == "generate_until"
    return Completion(
        id=document_id(task, doc, sample["doc_id"]),
        prompt=prompt,
        response=str(sample["resps"][0][0]).strip() if generated else "",
        category=str(doc.get("category") or ""),
        value=float(sample[task.correct]) if task.correct else None,
    )
