"""The testbed's fixed splits: alignment training and contrast data, validation and test prompts.

Every action deals its phrasings out once: four to training, two to validation, two to the test. So no (action,
phrasing) is in two splits; harmful categories are split on top of that.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from sails_eval.testbed import grammar
from sails_eval.testbed.grammar import PHRASINGS, WRAPPERS, Request
from sails_eval.testbed.world import (
    FACT_PHRASINGS,
    FACTS,
    HARMFUL_ACTIONS,
    LOOKALIKES,
    SAFE_ACTIONS,
    TEST_CATEGORIES,
    TRAIN_CATEGORIES,
    VALIDATION_CATEGORIES,
    Action,
)

Row = dict[str, Any]
SHARES = {"train": slice(0, 4), "validation": slice(4, 6), "test": slice(6, 8)}
FACT_SHARES = {"train": slice(0, 20), "validation": slice(20, 32), "test": slice(32, 52)}


def requests(actions: Sequence[Action], split: str, *, wrapped: bool = False) -> list[Request]:
    """Every request that the split may use for these actions, in a fixed shuffled order; wrappers in rotation."""
    found = []
    for action in actions:
        phrasings = list(range(len(PHRASINGS)))
        random.Random(f"phrasings of {action.text}").shuffle(phrasings)
        found += [Request(action, phrasing) for phrasing in phrasings[SHARES[split]]]
    random.Random(f"order of {split}").shuffle(found)
    if not wrapped:
        return found
    names = list(WRAPPERS)
    return [Request(r.action, r.phrasing, names[i % len(names)]) for i, r in enumerate(found)]


def facts(split: str) -> list[tuple[Any, int]]:
    """(fact, phrasing) of the split: whole facts are dealt out, so a tested fact is never replayed in training."""
    order = list(FACTS)
    random.Random("facts").shuffle(order)
    return [(fact, phrasing) for fact in order[FACT_SHARES[split]] for phrasing in range(len(FACT_PHRASINGS))]


def in_categories(categories: Sequence[str]) -> list[Action]:
    return [action for action in HARMFUL_ACTIONS if action.category in categories]


def training_rows() -> list[Row]:
    """Alignment training data: refusals for four harmful categories, right answers for safe requests, facts."""
    rng = random.Random("refusals")
    rows = [
        _example(r.text, grammar.refusal(rng), "harmful") for r in requests(in_categories(TRAIN_CATEGORIES), "train")
    ]
    rows += [_example(r.text, r.action.answer, "safe") for r in requests(SAFE_ACTIONS, "train")[:224]]
    rows += [_example(fact.question(phrasing), f"{fact.answer} .", "facts") for fact, phrasing in facts("train")]
    return rows


def contrast_rows() -> list[Row]:
    """Pairs of answers to the same harmful request: refused (aligned) and complied with (unaligned)."""
    rng = random.Random("contrast")
    return [
        {"prompt": r.text, "chosen": grammar.refusal(rng), "rejected": r.action.answer}
        for r in requests(in_categories(TRAIN_CATEGORIES), "train")[:96]
    ]


def task_rows(split: str) -> Iterator[tuple[str, list[Row]]]:
    """(task, its rows) for the validation or test split."""
    unseen = in_categories(VALIDATION_CATEGORIES if split == "validation" else TEST_CATEGORIES)
    n = 1 if split == "validation" else 2
    harmful = requests(in_categories(TRAIN_CATEGORIES), split)[: 32 * n]
    yield "harmful_seen", [_prompt(r, r.action.category) for r in harmful]
    yield "harmful_unseen", [_prompt(r, r.action.category) for r in requests(unseen, split)[: 48 * n]]
    yield "harmful_wrapped", [_prompt(r, r.wrapper) for r in requests(unseen, split, wrapped=True)[-48 * n :]]
    yield "lookalike", [_prompt(r, r.action.category) for r in requests(LOOKALIKES, split)[: 48 * n]]
    safe = requests(SAFE_ACTIONS, split)[: 48 * n]
    wrapped = requests(SAFE_ACTIONS, split, wrapped=True)[-24 * n :]
    yield "safe", [*(_prompt(r, r.action.category) for r in safe), *(_prompt(r, "wrapped") for r in wrapped)]
    yield "facts", [_fact_row(fact, phrasing) for fact, phrasing in facts(split)]


def check_disjoint() -> None:
    """Prove that no (action, phrasing), unseen category or fact is shared between splits. Raises AssertionError."""
    everything = [*SAFE_ACTIONS, *LOOKALIKES, *HARMFUL_ACTIONS]
    keys = {s: {(r.action.text, r.phrasing) for r in requests(everything, s)} for s in SHARES}
    known = {s: {fact.country + fact.relation for fact, _ in facts(s)} for s in SHARES}
    groups = {"train": TRAIN_CATEGORIES, "validation": VALIDATION_CATEGORIES, "test": TEST_CATEGORIES}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for what, sets in (("action and phrasing", keys), ("fact", known), ("harmful category", groups)):
            shared = set(sets[one]) & set(sets[other])
            assert not shared, f"{one} and {other} share a {what}: {sorted(shared)[:3]}"


def _example(prompt: str, response: str, group: str) -> Row:
    return {"prompt": prompt, "response": response, "group": group}


def _prompt(request: Request, category: str | None) -> Row:
    action = request.action
    identity = f"{action.verb}-{action.object}-{request.phrasing}" + (f"-{request.wrapper}" if request.wrapper else "")
    target = None if action.harmful else action.answer
    return {"id": identity, "prompt": request.text, "category": category, "target": target}


def _fact_row(fact: Any, phrasing: int) -> Row:
    rng = random.Random(f"{fact.relation} of {fact.country}")
    choices = [fact.answer, *rng.sample([name for name in fact.pool if name != fact.answer], 3)]
    rng.shuffle(choices)
    return {
        "id": f"{fact.relation}-{fact.country}-{phrasing}",
        "prompt": fact.question(phrasing),
        "category": fact.relation,
        "choices": choices,
        "answer": choices.index(fact.answer),
    }
