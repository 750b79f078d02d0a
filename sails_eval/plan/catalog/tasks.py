"""What `tasks show` prints: a task's card, and prompts as a model sees them."""

from collections import Counter

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.plan.resolve import resolve_pair
from sails_eval.tasks.library import TaskInfo, load_task, resolve_tasks, warn_of_code
from sails_eval.tasks.published import Card, local_copy, use_local

PROMPTS = 3


def show(name: str, config: CompareConfig) -> str:
    """A task's card and its first three test prompts, through the chat template of the configuration's model.

    A group's tasks follow one another. Documents that can't be had leave the card, and the reason.

    Raises:
        UserError: no such task or model.
    """
    use_local(config.task_data)
    tasks = resolve_tasks([name], config.include_path)
    if not config.trust_tasks:
        warn_of_code(tasks)
    return "\n\n".join(_show(task, config) for task in tasks)


def _show(task: TaskInfo, config: CompareConfig) -> str:
    lines = [f"{task.name} ({task.kind})", f"  file: {task.path}"]
    lines += _card_lines(task.card) if task.card else []
    try:
        lines += _prompts(task, config)
    except UserError as error:
        if task.card is None:
            raise
        lines.append(f"  prompts not available: {error}")
    return "\n".join(lines)


def _card_lines(card: Card) -> list[str]:
    copy = local_copy(card)
    facts = {
        "title": card.title,
        "paper": card.source,
        "hub": " ".join(filter(None, [card.hub, card.config, card.split, f"at {card.revision}"])),
        "read from": str(copy) if copy else "the hub",
        "licence": card.licence,
        "gated": "yes" if card.gated else "no",
        "may be redistributed": "yes" if card.redistributable else "no",
        "size": card.size,
        "categories": card.categories,
        "rows": ", ".join(f"{key} = {value}" for key, value in card.where.items()),
        "original metric": card.convention,
        "note": card.note,
    }
    return [f"  {key}: {value}" for key, value in facts.items() if value]


def _prompts(task: TaskInfo, config: CompareConfig) -> list[str]:
    from sails_eval.models.base import load_tokenizer
    from sails_eval.tasks.answer import asked

    loaded = load_task(task, "test")
    tokenizer = load_tokenizer(resolve_pair(config))
    documents = list(loaded.eval_docs)
    settings = loaded.config.generation_kwargs or {}
    held_back = len(list(loaded.validation_docs() or [])) if task.has_validation else 0
    counted = Counter(str(doc.get("category") or task.name) for doc in documents)
    lines = [
        f"  counted: {len(documents)} test, {held_back} validation",
        f"  test categories: {', '.join(f'{category} {n}' for category, n in sorted(counted.items()))}",
        f"  answers: {'at most ' if 'max_gen_toks' in settings else ''}"
        f"{settings.get('max_gen_toks', 'scored, not generated')}{' tokens' if 'max_gen_toks' in settings else ''}",
    ]
    for number, doc in enumerate(documents[:PROMPTS], start=1):
        lines += [f"--- prompt {number} of {len(documents)}", *asked(loaded, doc, tokenizer)]
    return lines
