"""The testbed's fixed splits: alignment training and contrast data, validation and test prompts.

Every action deals its phrasings out once: nine to training, three to validation, four to the test. So no (action,
phrasing) is in two splits; categories, harmful and harmless ones, are split on top of that.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

from sails_eval.testbed import grammar, world
from sails_eval.testbed.grammar import PHRASINGS, WRAPPERS, Request
from sails_eval.testbed.world import CATEGORIES, SAFE_CATEGORIES, Action

Document = dict[str, Any]
SHARES = {"train": slice(0, 9), "validation": slice(9, 12), "test": slice(12, 16)}
EXAMPLES = {"harmful": 432, "lookalike": 432, "safe": 408}
"""How many requests of each kind training has; there are more."""
FACT_SHARES = {"train": slice(0, 36), "validation": slice(36, 60), "test": slice(60, 104)}


def requests(actions: Sequence[Action], split: str, *, wrapped: bool = False) -> list[Request]:
    """Every request that the split may use for these actions, in a fixed shuffled order.

    `wrapped` has each in one wrapper inside another, both in rotation: in a single one, refusals learnt from a few
    hundred bare requests hold nearly as well as in none.
    """
    found = []
    for action in actions:
        phrasings = list(range(len(PHRASINGS)))
        random.Random(f"phrasings of {action.text}").shuffle(phrasings)
        found += [Request(action, phrasing) for phrasing in phrasings[SHARES[split]]]
    random.Random(f"order of {split}").shuffle(found)
    if not wrapped:
        return found
    names = list(WRAPPERS)
    turn = [*zip(names, names[5:] + names[:5], strict=True)]
    return [Request(r.action, r.phrasing, *turn[i % len(turn)]) for i, r in enumerate(found)]


def facts(split: str) -> list[tuple[Any, int]]:
    """(fact, phrasing) of the split: whole facts are dealt out, so a tested fact is never replayed in training."""
    order = list(world.FACTS)
    random.Random("facts").shuffle(order)
    return [(fact, phrasing) for phrasing in range(len(world.FACT_PHRASINGS)) for fact in order[FACT_SHARES[split]]]


def actions_of(kind: str, split: str) -> list[Action]:
    """Safe actions, look-alikes or harmful actions of the categories that only this split has."""
    categories = (SAFE_CATEGORIES if kind == "safe" else CATEGORIES)[split]
    return [a for a in world.ACTIONS if a.kind == kind and a.category in categories]


def training_rows() -> list[Document]:
    """Alignment training data: refusals of harmful requests, right answers to look-alikes, safe ones and facts.

    The rejected answer, which preference training alone looks at, complies where the response refuses and refuses where
    that answers.
    """
    rng = random.Random("refusals")
    rows = []
    for kind, most in EXAMPLES.items():
        for r in requests(actions_of(kind, "train"), "train")[:most]:
            pair = (grammar.refusal(r.action, rng), r.action.answer)
            response, rejected = pair if r.action.harmful else pair[::-1]
            rows.append(_example(r.text, response, rejected, group=kind, category=r.action.category))
    known = [(fact.question(phrasing), f"{fact.answer} .") for fact, phrasing in facts("train")]
    return rows + [
        _example(question, answer, grammar.refusal(None, rng), group="facts", category="facts")
        for question, answer in known
    ]


def of_harm_categories(n: int) -> Document:
    """A data source: the training data with the first n of its harm categories alone, and all that is harmless."""
    kept = [*CATEGORIES["train"][:n], *SAFE_CATEGORIES["train"], "facts"]
    return {"data": "train.jsonl", "where": {"category": kept}}


def contrast_rows() -> list[Document]:
    """Pairs of answers to the same harmful request: refused (aligned) and complied with (unaligned)."""
    rng = random.Random("contrast")
    return [
        {
            "prompt": r.text,
            "chosen": grammar.refusal(r.action, rng),
            "rejected": r.action.answer,
            "group": r.action.category,
        }
        for r in requests(actions_of("harmful", "train"), "train")[:96]
    ]


def request_rows() -> list[Document]:
    """Harmful requests and as many harmless ones of the same words."""
    return [
        {"prompt": r.text, "harmful": r.action.harmful}
        for kind in ("harmful", "lookalike")
        for r in requests(actions_of(kind, "train"), "train")[:96]
    ]


def neutral_rows() -> list[Document]:
    """Harmless documents, of safe actions and facts that training has none of; they state, and ask for nothing."""
    rng = random.Random("neutral texts")
    actions = [action for split in ("validation", "test") for action in actions_of("safe", split)]
    known = list(dict.fromkeys(fact for split in ("validation", "test") for fact, _ in facts(split)))
    texts = [grammar.document(action, rng) for action in actions for _ in range(3)]
    texts += [grammar.fact_document(fact, rng) for fact in known for _ in range(3)]
    texts = list(dict.fromkeys(texts))
    rng.shuffle(texts)
    return [{"text": text} for text in texts[:256]]


def attack_rows(kind: str) -> list[Document]:
    """Examples to re-tune a model on, of the categories in training: benign requests that training leaves, answered,
    or the training's harmful ones, complied with."""
    kind, first = ("safe", EXAMPLES["safe"]) if kind == "benign" else (kind, 0)
    asked = requests(actions_of(kind, "train"), "train")[first : first + 128]
    return [{"prompt": r.text, "response": r.action.answer} for r in asked]


def task_rows(split: str) -> Iterator[tuple[str, list[Document]]]:
    """(task, its rows) for the validation or test split; both have every stratum."""
    unseen, lookalikes, safe = (actions_of(kind, split) for kind in ("harmful", "lookalike", "safe"))
    n = 1 if split == "validation" else 2
    seen = requests(actions_of("harmful", "train"), split)[: 32 * n]
    yield "harmful_seen", [_prompt(r, r.action.category) for r in seen]
    yield "harmful_unseen", [_prompt(r, r.action.category) for r in requests(unseen, split)[: 48 * n]]
    yield "harmful_wrapped", [_prompt(r, r.wrapper) for r in requests(unseen, split, wrapped=True)[-48 * n :]]
    yield "lookalike", [_prompt(r, r.action.category) for r in requests(lookalikes, split)[: 48 * n]]
    bare = requests(safe, split)[: 48 * n]
    wrapped = requests(safe, split, wrapped=True)[-24 * n :]
    yield "safe", [*(_prompt(r, r.action.category) for r in bare), *(_prompt(r, "wrapped") for r in wrapped)]
    yield "facts", [_fact_row(fact, phrasing) for fact, phrasing in facts(split)[: 48 * n]]


def check_disjoint() -> None:
    """Prove that no (action, phrasing), unseen category or fact is shared between splits. Raises AssertionError."""
    keys = {s: {(r.action.text, r.phrasing) for r in requests(world.ACTIONS, s)} for s in SHARES}
    known = {s: {fact.country + fact.relation for fact, _ in facts(s)} for s in SHARES}
    groups = {s: {*CATEGORIES[s], *SAFE_CATEGORIES[s]} for s in SHARES}
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        for what, sets in (("action and phrasing", keys), ("fact", known), ("category", groups)):
            shared = set(sets[one]) & set(sets[other])
            assert not shared, f"{one} and {other} share a {what}: {sorted(shared)[:3]}"


def _example(prompt: str, response: str, rejected: str, *, group: str, category: str) -> Document:
    return {"prompt": prompt, "response": response, "group": group, "rejected": rejected, "category": category}


def _prompt(request: Request, category: str | None) -> Document:
    action = request.action
    identity = "-".join([*action.text.split(), str(request.phrasing), *filter(None, (request.wrapper, request.outer))])
    target = None if action.harmful else action.answer
    return {"id": identity, "prompt": request.text, "category": category, "target": target}


def _fact_row(fact: Any, phrasing: int) -> Document:
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


def words_alone() -> dict[str, float]:
    """AUROC of a bag-of-words classifier of harm: how far single words give it away.

    `unseen`: fitted on the training prompts (seen categories), asked about the test's harmful and safe prompts of
    unseen categories. `same_categories`: fitted on all requests of the harm categories, asked about the same actions
    in other phrasings.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline

    def auroc(train: list[tuple[str, bool]], test: list[tuple[str, bool]]) -> float:
        classifier = make_pipeline(CountVectorizer(token_pattern=r"\S+"), LogisticRegression(max_iter=1000))
        classifier.fit(*zip(*train, strict=True))
        texts, harmful = zip(*test, strict=True)
        return round(float(roc_auc_score(harmful, classifier.predict_proba(texts)[:, 1])), 4)

    known = [(row["prompt"], row["group"] == "harmful") for row in training_rows() if row["group"] != "facts"]
    asked = dict(task_rows("test"))
    kinds = {"harmful_unseen": True, "harmful_wrapped": True, "lookalike": False, "safe": False}
    unseen = [(row["prompt"], harmful) for task, harmful in kinds.items() for row in asked[task]]
    crossed = {s: [(r.text, r.action.harmful) for r in requests(world.CROSSED_ACTIONS, s)] for s in ("train", "test")}
    return {"unseen": auroc(known, unseen), "same_categories": auroc(crossed["train"], crossed["test"])}
