"""Have a model answer a task through lm-eval, and keep its completions."""

from collections.abc import Callable, Container
from functools import partial
from typing import Any

from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate

from sails_eval.core.errors import UserError, first_line
from sails_eval.core.fingerprint import digest
from sails_eval.core.records import Completion, Split
from sails_eval.judges.answer_text import opened_in
from sails_eval.models.chat import render_prompt
from sails_eval.models.engines import HF
from sails_eval.models.engines.base import SEED, EndsLoops
from sails_eval.tasks.library import TaskInfo, load_task
from sails_eval.tasks.rehearsal import check_score, check_settings, generation_of, names_nothing


def complete(lm: LM, task: TaskInfo, split: Split, *, limit: int | None = None) -> list[Completion]:
    """The model's answers to the prompts of one split of a task (the first `limit` of them), in the task's order.

    Generation settings are the task's own; answers that are sampled are so from a seed, the same for every model.
    Prompts go through the chat template; the completion keeps them as the user wrote them.

    Raises UserError, with the task's file, where its scoring fails on an answer.
    """
    loaded = load_task(task, split)
    seed_sampling(generation_of(loaded))
    loaded.process_results = _naming(task, loaded.process_results)
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
    looped = lm.looped if isinstance(lm, EndsLoops) else frozenset[str]()
    return [_completion(loaded, task, sample, looped) for sample in samples if sample["filter"] == first]


def _naming(task: TaskInfo, score: Callable[..., Any]) -> Callable[..., Any]:
    """A task's scoring, whose failures are UserErrors with the task's file."""

    def scored(*given: Any) -> Any:
        try:
            return score(*given)
        except Exception as error:  # whatever a user's functions may raise
            told = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{task.path}: scoring an answer failed ({told}); correct process_results") from error

    return scored


def seed_sampling(generation: dict[str, Any]) -> None:
    """Have torch draw the same numbers whenever a task's answers are sampled; greedy ones need none."""
    if generation["do_sample"]:
        import torch

        torch.manual_seed(SEED)


def asked(loaded: Any, doc: dict[str, Any], tokenizer: Any) -> list[str]:
    """All that a model reads of a document before it answers, as lm-eval puts it together: a system prompt or the
    task's description, examples, the chat template, the beginning of the answer.

    That is one text, or one for each choice where these differ in what comes before. Examples are drawn anew at every
    call: the prompts are those of a run where all documents are gone through in order. Raises UserError where the
    task's settings or functions do not fit the document.
    """
    try:
        context = loaded.fewshot_context(
            doc,
            int(loaded.config.num_fewshot or 0),
            apply_chat_template=True,
            chat_template=partial(render_prompt, tokenizer),
            gen_prefix=loaded.doc_to_prefix(doc),
        )
        texts = [context] if isinstance(context, str) else list(context)
        "".join(texts).encode()  # half of a surrogate pair is nothing that a tokenizer knows
    except Exception as error:  # whatever the functions and templates of a user's task may raise
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f"task '{loaded.task_name}': no prompt can be made from document {str(doc)[:60]}…: {reason}"
        ) from error
    return texts


def document_id(task: TaskInfo, doc: dict[str, Any], number: int) -> str:
    """The id that a task of ours gives its document, else its number and a hash of its content."""
    if (task.data is not None or task.card is not None) and doc.get("id"):
        return str(doc["id"])
    return f"{task.name}-{number}-{digest({key: str(value) for key, value in doc.items()})[:8]}"


def check_documents(
    task: TaskInfo, split: Split, *, tokenizer: Any, context: int, limit: int | None, engine: str = HF
) -> None:
    """See before anything is trained that a model can answer a task's documents and that they can be scored.

    Raises UserError for a document without a prompt, an id that comes twice, a prompt that with all that comes before
    it leaves no room in the model's context of `context` tokens, and as `check_settings` and `check_score` do.
    """
    loaded = load_task(task, split)
    where = f"{task.path}: {split}"
    check_settings(task, loaded, engine)
    documents = list(loaded.eval_docs)
    if not documents:
        raise UserError(f"{where}: no documents; add some")
    seen: set[str] = set()
    for number, doc in list(enumerate(documents))[:limit]:
        identity = document_id(task, doc, number)
        texts = asked(loaded, doc, tokenizer)
        length = max(_length(tokenizer, text) for text in texts)
        prompt = loaded.doc_to_text(doc)
        if not isinstance(prompt, str) or not prompt.strip():
            raise UserError(f"{where}: document {number + 1} has no prompt; add one, or remove the document")
        if names_nothing(prompt, loaded.config.doc_to_text, doc):
            raise UserError(f"{where}: doc_to_text '{prompt}' names no column of document {number + 1}; name one")
        if identity in seen:
            raise UserError(f"{where}: two documents have the id '{identity}'; give each its own")
        seen.add(identity)
        check_score(task, loaded, doc, texts if len(texts) > 1 else texts[0], f"{where}: document '{identity}'")
        answer, what, fix = _answer(loaded, doc, tokenizer)
        if length > context - answer:
            shots = loaded.config.num_fewshot
            raise UserError(
                f"{where}: document '{identity}' has {length} tokens{f' with {shots} examples' if shots else ''} and "
                f"{what} leaves {context - answer} of the model's context of {context}; "
                f"{'lower num_fewshot, ' if shots else ''}{fix}"
            )


def _answer(loaded: Any, doc: dict[str, Any], tokenizer: Any) -> tuple[int, str, str]:
    """How many tokens an answer takes at most, what says so, and what to do where that is too many."""
    if loaded.OUTPUT_TYPE == "generate_until":
        tokens = generation_of(loaded)["max_gen_toks"]
        return tokens, "max_gen_toks", "lower max_gen_toks or drop it"
    choices = loaded.doc_to_choice(doc) if loaded.config.doc_to_choice else []
    longest = max((_length(tokenizer, str(choice)) for choice in choices), default=1)
    return longest - 1, "its longest choice", "drop it"  # nothing is read behind the last token


def _length(tokenizer: Any, text: str) -> int:
    """Tokens of a prompt; special tokens are the template's alone."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _completion(loaded: Any, task: TaskInfo, sample: dict[str, Any], looped: Container[str]) -> Completion:
    doc = sample["doc"]
    prompt = str(loaded.doc_to_text(doc))
    generated = loaded.OUTPUT_TYPE == "generate_until"
    said = str(sample["resps"][0][0])
    return Completion(
        id=document_id(task, doc, sample["doc_id"]),
        prompt=prompt,
        response=(opened_in(str(sample["arguments"][0][0])) + said).strip() if generated else "",
        category=str(doc.get("category") or ""),
        value=float(sample[task.correct]) if task.correct else None,
        looped=generated and said.strip() in looped,
    )
