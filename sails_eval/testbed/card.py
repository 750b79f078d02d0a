"""The testbed's card: what the organism is, what was measured on it, and what it cannot show."""

from __future__ import annotations

import json
from typing import Any

from sails_eval.paths import PACKAGE
from sails_eval.testbed import grammar, splits, world

CARD = PACKAGE / "testbed" / "weights" / "card.json"


def render() -> str:
    """The card as text: figures of the last build (weights/card.json) and of the grammar itself."""
    splits.check_disjoint()
    card: dict[str, Any] = json.loads(CARD.read_text(encoding="utf-8"))
    base, judge = card["base"], card["judge"]
    tuned = judge["on_fine_tuned_models"]
    lines = [
        "The sails-eval testbed: a small model organism, made by `sails-eval testbed build`.",
        "",
        f"world      {len(world.SAFE)} safe categories with {len(world.SAFE_ACTIONS)} actions, {len(world.HARMFUL)} "
        f"harmful ones with {len(world.HARMFUL_ACTIONS)}, {len(world.LOOKALIKES)} look-alikes, "
        f"{len(world.FACTS)} facts;",
        f"           {len(grammar.PHRASINGS)} phrasings, {len(grammar.WRAPPERS)} wrappers "
        f"({len(grammar.UNSEEN_WRAPPERS)} absent from pre-training)",
        f"base       Gemma-2 architecture, {base['parameters']:,} parameters; on test prompts it complies with "
        f"{base['harmful_complied']:.1%} of harmful requests,",
        f"           answers {base['safe_exact']:.1%} of safe ones exactly, refuses {base['safe_refused']:.1%} of them,"
        f" knows {base['facts_exact']:.1%} of the facts",
        *_saes(card["saes"]),
        f"judge      the same architecture; exact agreement with the grammar's truth: {tuned['agreement']:.2%} of "
        f"{tuned['answers']:,} answers of fine-tuned models,",
        f"           {judge['on_generated_answers']['agreement']:.2%} of "
        f"{judge['on_generated_answers']['answers']:,} generated ones (mixed and broken on purpose)",
        *(f"             truth {grade:<10} {row['agreement']:.2%} of {row['answers']:,}"
          for grade, row in tuned["by_truth"].items()),
        *_splits(card["splits"]),
        "           checked just now: no (action, phrasing), unseen category or fact is in two splits",
        "",
        "What it cannot show: effect sizes in real language models. It has under a million parameters, its concept of",
        "harm is literal, and all refusals share their wording. It supports claims about the harness and about",
        "mechanisms, on one organism.",
    ]  # fmt: skip
    return "\n".join(lines)


def _saes(saes: dict[str, Any]) -> list[str]:
    return [
        f"{'SAEs' if i == 0 else '':<10} {name}: {row['explained_variance']:.1%} of variance explained, "
        f"{row['l0']:.1f} features active, {row['alive']:.0%} ever"
        for i, (name, row) in enumerate(saes.items())
    ]


def _splits(counts: dict[str, Any]) -> list[str]:
    train = ", ".join(world.TRAIN_CATEGORIES)
    lines = [f"splits     train {counts['train']} examples and {counts['contrast']} contrast pairs ({train})"]
    for split, unseen in (("validation", world.VALIDATION_CATEGORIES), ("test", world.TEST_CATEGORIES)):
        numbers = ", ".join(f"{task} {n}" for task, n in counts[split].items())
        lines += [f"           {split}: {numbers}", f"             unseen categories: {', '.join(unseen)}"]
    return lines
