"""The testbed's card: what the organism is, what was measured on it, and what it cannot show."""

from typing import Any

from sails_eval.core.files import read_json
from sails_eval.core.paths import PACKAGE
from sails_eval.testbed import grammar, splits, world

CARD = PACKAGE / "testbed" / "weights" / "card.json"


def render() -> str:
    """The card as text: figures of the last build (weights/card.json) and of the grammar itself."""
    splits.check_disjoint()
    card = read_json(CARD)
    judge, words = card["judge"], splits.words_alone()
    tuned = judge["on_fine_tuned_models"]
    lines = [
        "The sails-eval testbed: small model organisms, made by `sails-eval testbed build`.",
        "",
        f"world      {len(world.SAFE)} safe categories with {len(world.SAFE_ACTIONS)} actions, {len(world.CROSSED)} "
        f"of harm with {len(world.HARMFUL_ACTIONS)} harmful actions and",
        f"           {len(world.LOOKALIKES)} look-alikes of the same verbs and objects, {len(world.FACTS)} facts; "
        f"{len(grammar.PHRASINGS)} phrasings,",
        f"           {len(grammar.WRAPPERS)} wrappers ({len(grammar.UNSEEN_WRAPPERS)} absent from pre-training)",
        f"words      a bag-of-words classifier of harm, measured just now: AUROC {words['unseen']:.2f} from seen to "
        "unseen categories",
        f"           (few of whose words it knows), {words['same_categories']:.2f} from phrasings to others of the "
        "same ones",
        "           (all of whose words it knows; 0.5 is chance): words alone don't give harm away",
        *(line for name, organism in card["organisms"].items() for line in _organism(name, organism)),
        f"judge      the same architecture; exact agreement with the grammar's truth: {tuned['agreement']:.2%} of "
        f"{tuned['answers']:,} answers of fine-tuned models,",
        f"           {judge['on_generated_answers']['agreement']:.2%} of "
        f"{judge['on_generated_answers']['answers']:,} generated ones (mixed and broken on purpose)",
        *(f"             truth {grade:<10} {row['agreement']:.2%} of {row['answers']:,}"
          for grade, row in tuned["by_truth"].items()),
        *_splits(card["splits"]),
        "           checked just now: no (action, phrasing), category or fact is in two splits",
        "",
        "What it cannot show: effect sizes in real language models. Its models have 0.87 million parameters, their",
        "concept of harm is literal (a list of pairs of words), and all refusals share their wording. It supports",
        "claims about mechanisms and about the harness.",
    ]  # fmt: skip
    return "\n".join(lines)


def _organism(name: str, card: dict[str, Any]) -> list[str]:
    lines = [
        f"{name}: Gemma-2 architecture, {card['parameters']:,} parameters; on test prompts it complies with "
        f"{card['harmful_complied']:.1%} of harmful requests,",
        f"           answers {card['safe_exact']:.1%} of safe ones exactly, refuses {card['safe_refused']:.1%} of them,"
        f" knows {card['facts_exact']:.1%} of the facts;",
        f"           a linear probe of harm carries over to unseen categories ({card['harm_probe']:.1%} right)",
    ]
    if flips := card.get("flips"):
        lines += [
            f"           harm planted in {card['dimensions']} dimensions after layer {card['layer']}: exchanging them "
            f"turns harm round in {flips['subspace']:.1%} of pairs,",
            f"           exchanging all others in {flips['complement']:.1%}; at a request's last word they tell harm "
            f"({card['told_apart']:.1%} right)",
        ]
    if trained := card.get("preference"):
        lines.append(
            f"           its preference-trained reference complies with {trained['harmful_complied']:.1%} of harmful "
            f"requests, answers {trained['safe_exact']:.1%} of safe ones exactly"
        )
    for quality, layers in card["saes"].items():
        explained = ", ".join(f"{row['explained_variance']:.0%}" for row in layers.values())
        alive, l0 = (sum(row[key] for row in layers.values()) / len(layers) for key in ("alive", "l0"))
        lines.append(
            f"           SAEs, {quality}: {explained} of variance explained by layer, {l0:.0f} active at once, "
            f"{alive:.0%} ever"
        )
    return lines


def _splits(counts: dict[str, Any]) -> list[str]:
    train = ", ".join(world.CATEGORIES["train"])
    lines = [f"splits     train {counts['train']} examples and {counts['contrast']} contrast pairs ({train})"]
    for split in ("validation", "test"):
        unseen = (*world.CATEGORIES[split], *world.SAFE_CATEGORIES[split])
        numbers = ", ".join(f"{task} {n}" for task, n in counts[split].items())
        lines += [f"           {split}: {numbers}", f"             unseen categories: {', '.join(unseen)}"]
    return lines
