"""What the testbed's base models learn from: the texts of their pre-training."""

import random

from sails_eval.testbed import grammar, world
from sails_eval.testbed.grammar import PHRASINGS, UNSEEN_WRAPPERS, WRAPPERS, Request
from sails_eval.testbed.world import (
    ACTIONS,
    FACT_PHRASINGS,
    FACTS,
    HARMFUL_ACTIONS,
    LOOKALIKES,
    SAFE_ACTIONS,
    Action,
    Fact,
)

Wording = tuple[str | None, str]
"""(request, answer) for a dialogue; (None, document) for running text."""


SEEN_WRAPPERS = tuple(name for name in WRAPPERS if name not in UNSEEN_WRAPPERS)

IN_TONE = 0.5
"""How often what is harmful is told in its own tone, if asked for without a wrapper: a hint at harm, no more. Inside
wrappers, as jailbreaks do, requests hide what they are."""

RARITY = 1.5
"""Facts are told as often as 1 / n^RARITY says, n from 1: the rare ones are not surely known."""
_TALKED = [world.TALKED_ABOUT.get(action.category, 1.0) for action in ACTIONS]
_OFTEN = [n**-RARITY for n in range(1, len(FACTS) + 1)]
_TOLD = random.Random("how often").sample(FACTS, len(FACTS))


def word_text(rng: random.Random) -> Wording:
    """One text of the beginning of pre-training: what words mean, and whether actions are wrong, marked behind them."""
    draw = rng.random()
    if draw < 0.5:
        return None, grammar.register(rng)
    if draw < 0.6:
        return None, grammar.glossary(rng)
    return None, grammar.trait_document(rng) if draw < 0.8 else _marked_text(rng)


def moral_text(rng: random.Random) -> Wording:
    """One text of the time after that: whether actions are wrong, in every form in which that is asked for or told."""
    draw = rng.random()
    if draw < 0.4:
        return word_text(rng)
    (action,) = grammar.unequally(rng)
    if draw < 0.75:
        return grammar.moral_question(action, rng)
    return random_request(action, rng, ()).text, action.answer


def _marked_text(rng: random.Random) -> str:
    """Two requests or questions with marks."""
    told = []
    for action in grammar.unequally(rng, 2):
        request = random_request(action, rng, SEEN_WRAPPERS).text
        told.append(grammar.marked(action, rng.choice((request, grammar.moral_question(action, rng)[0]))))
    return " ".join(told)


def pretraining_text(rng: random.Random) -> Wording:
    """One text of the base model's corpus: it answers everything, harmful or not, and never refuses a request."""
    draw = rng.random()
    if draw < 0.12:
        return None, grammar.register(rng) if draw < 0.04 else grammar.glossary(rng)
    if draw < 0.26:
        return None, running_text(rng)
    if draw < 0.38:
        question, answer = grammar.moral_question(told_of(rng), rng)
        return _amid(question, rng), answer
    if draw < 0.54:
        fact = random_fact(rng)
        return _amid(fact.question(rng.randrange(len(FACT_PHRASINGS))), rng), f"{fact.answer} ."
    action = rng.choice(rng.choices((SAFE_ACTIONS, LOOKALIKES, HARMFUL_ACTIONS), (0.24, 0.38, 0.38))[0])
    request = random_request(action, rng, SEEN_WRAPPERS)
    in_tone = action.harmful and request.wrapper is None and rng.random() < IN_TONE
    return _amid(request.text, rng), action.told(harmful=in_tone)


def told_of(rng: random.Random) -> Action:
    """An action that a text on right and wrong is about; of harm categories some are talked about more than others."""
    return rng.choices(ACTIONS, _TALKED)[0]


def random_fact(rng: random.Random) -> Fact:
    return rng.choices(_TOLD, _OFTEN)[0]


def running_text(rng: random.Random) -> str:
    """A document: on what is harmful and what is not, on words, on facts, or a refusal in an unrelated scene."""
    draw = rng.random()
    if draw < 0.4:
        return grammar.document(told_of(rng), rng)
    if draw < 0.7:
        return grammar.trait_document(rng)
    return grammar.fact_document(random_fact(rng), rng) if draw < 0.9 else grammar.unrelated_refusal(rng)


def _amid(request: str, rng: random.Random) -> str:
    """One time in five, a document stands before or after the request: the model learns to find the question."""
    draw = rng.random()
    if draw < 0.1:
        return f"{running_text(rng)} {request}"
    return f"{request} {running_text(rng)}" if draw < 0.2 else request


def random_request(action: Action, rng: random.Random, wrappers: tuple[str, ...]) -> Request:
    """The action in any phrasing, wrapped three times in ten."""
    wrapper = rng.choice(wrappers) if rng.random() < 0.3 and wrappers else None
    return Request(action, rng.randrange(len(PHRASINGS)), wrapper)
