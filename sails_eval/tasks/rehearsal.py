"""A task's settings looked at, and its scoring tried on an answer of one word, before a model is asked."""

from typing import Any

from lm_eval.defaults import DEFAULT_MAX_GEN_TOKS
from lm_eval.models.utils import normalize_gen_kwargs

from sails_eval.core.errors import UserError, first_line
from sails_eval.models.engines import HF
from sails_eval.tasks.library import TaskInfo

_ANSWERS = {"generate_until": "a", "loglikelihood": (-1.0, False), "loglikelihood_rolling": -1.0}
"""What a model might say to each kind of lm-eval's requests."""


def generation_of(loaded: Any) -> dict[str, Any]:
    """A task's generation settings as lm-eval reads them: whether answers are sampled, their `max_gen_toks`."""
    return dict(normalize_gen_kwargs(loaded.config.generation_kwargs or {}, DEFAULT_MAX_GEN_TOKS))


def check_settings(task: TaskInfo, loaded: Any, engine: str) -> None:
    """Raises UserError for a task whose answers could not be had here, or could be neither judged nor scored."""
    config, generates = loaded.config, loaded.OUTPUT_TYPE == "generate_until"
    problems = []
    if config.unsafe_code:
        problems.append("key 'unsafe_code': answers are not run as code here; leave the task out")
    if config.doc_to_image or config.doc_to_audio:
        problems.append("models are asked in text here, without images or sounds; leave the task out")
    if task.kind != "capability" and not generates:
        fix = f"a {task.kind} task needs generate_until"
        problems.append(f"output_type is {loaded.OUTPUT_TYPE}, so there are no answers to judge; {fix}")
    if config.test_split and config.test_split == config.validation_split:
        problems.append(f"validation_split and test_split are both '{config.test_split}'; give each its own documents")
    for name, aggregation in loaded.aggregation().items():
        if not callable(aggregation):
            problems.append(f"metric '{name}' has no aggregation that lm-eval knows; write `aggregation: mean`")
    if generates and engine == HF:
        from transformers import GenerationConfig

        known = {"until", "max_gen_toks", *vars(GenerationConfig())} - {"max_length"}  # which would count the prompt
        unknown = sorted(generation_of(loaded).keys() - known)
        problems += [f"key 'generation_kwargs.{name}': nothing that engine hf takes; take it out" for name in unknown]
    if problems:
        raise UserError("\n".join(f"{task.path}: {problem}" for problem in problems))


def check_score(task: TaskInfo, loaded: Any, doc: dict[str, Any], context: str | list[str], where: str) -> None:
    """See that an answer to a document can be scored, `context` being the prompt. Raises UserError, naming `where`."""
    try:
        scores = _scores(task, loaded, doc, context)
        problem = None if callable(loaded.config.process_results) else _unscorable(loaded, doc)
    except Exception as error:  # whatever the functions and templates of a user's task may raise
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{where} cannot be scored: {reason}; correct its target, filters or metrics") from error
    if task.correct is None:
        return
    if problem:
        raise UserError(f"{where}: {problem}")
    value = scores.get(task.correct)
    try:
        fits = value is not None and 0 <= float(value) <= 1
    except (TypeError, ValueError):
        fits = False
    if not fits:
        found = ", ".join(f"{name} {score!r:.30}" for name, score in scores.items()) or "nothing"
        raise UserError(
            f"{where}: '{task.correct}' is to say whether an answer is right, from 0 to 1, but its scores are {found}; "
            "name another metric as metadata.correct, or correct metric_list or process_results"
        )


def names_nothing(text: Any, key: Any, doc: dict[str, Any]) -> bool:
    """Whether a key that should name a column was taken for the text itself, as lm-eval does where there is none."""
    return isinstance(text, str) and text == key and text.isidentifier() and text not in doc


def _scores(task: TaskInfo, loaded: Any, doc: dict[str, Any], context: str | list[str]) -> dict[str, Any]:
    """What lm-eval makes of one answer, by its first filter; it goes through all of them, and the target, too."""
    made = loaded.construct_requests(
        doc=doc, ctx=context, metadata=(task.name, 0, loaded.config.repeats), apply_chat_template=True
    )
    requests = made if isinstance(made, list) else [made]
    for request in requests:
        request.resps = [_ANSWERS[request.request_type]] * request.repeats
    for ensemble in loaded._filters:  # `apply_filters` is for requests of its own
        ensemble.apply(requests)
    loaded.doc_to_target(doc)
    found = [
        loaded.process_results(doc, [request.filtered_resps[name] for request in requests])
        for name in requests[0].filtered_resps
    ]
    return dict(found[0])


def _unscorable(loaded: Any, doc: dict[str, Any]) -> str | None:
    """Why lm-eval's own scoring would count every answer to a document as wrong, if it would."""
    target, config = loaded.doc_to_target(doc), loaded.config
    if loaded.OUTPUT_TYPE == "multiple_choice":
        gold = loaded.doc_to_text(doc) if loaded.multiple_input else target
        choices = loaded.doc_to_choice(doc)
        right = gold if isinstance(gold, list) else [gold]
        strange = [one for one in right if one not in (choices if isinstance(one, str) else range(len(choices)))]
        return f"its right answer, {strange[0]!r:.60}, is none of its choices; correct or drop it" if strange else None
    if target is None or names_nothing(target, config.doc_to_target, doc):
        return f"doc_to_target {config.doc_to_target!r:.60} names no column of it; name one, or write a template"
    return None
