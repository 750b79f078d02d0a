import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sails_eval.core.data_source import starting_at
from sails_eval.core.paths import PACKAGE, bundled
from sails_eval.data.reading import read_examples
from sails_eval.testbed import grammar, splits
from sails_eval.testbed.grammar import PHRASINGS, UNSEEN_WRAPPERS, WRAPPERS
from sails_eval.testbed.world import (
    ACTIONS,
    CATEGORIES,
    CROSSED,
    CROSSED_ACTIONS,
    FACT_PHRASINGS,
    FACTS,
    HARMFUL_ACTIONS,
    LOOKALIKES,
    SAFE,
    SAFE_ACTIONS,
    SAFE_CATEGORIES,
)

COUNTS = {
    "validation": {
        "harmful_seen": 32,
        "harmful_unseen": 48,
        "harmful_wrapped": 48,
        "lookalike": 48,
        "safe": 72,
        "facts": 48,
    },
    "test": {
        "harmful_seen": 64,
        "harmful_unseen": 96,
        "harmful_wrapped": 96,
        "lookalike": 96,
        "safe": 144,
        "facts": 96,
    },
}


def tasks(split: str) -> dict[str, list[dict[str, Any]]]:
    return dict(splits.task_rows(split))


def prompts(split: str) -> list[str]:
    if split == "train":
        return [row["prompt"] for row in [*splits.training_rows(), *splits.contrast_rows()]]
    return [row["prompt"] for rows in tasks(split).values() for row in rows]


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_world_is_as_large_as_it_says() -> None:
    assert Counter(action.category for action in SAFE_ACTIONS) == dict.fromkeys(
        {action.category for action in SAFE_ACTIONS}, 12
    )
    for kind in (HARMFUL_ACTIONS, LOOKALIKES):
        assert Counter(action.category for action in kind) == dict.fromkeys(CROSSED, 12)
    assert (len(SAFE_ACTIONS), len(CROSSED_ACTIONS), len(FACTS)) == (144, 480, 104)
    assert len({action.text for action in ACTIONS}) == len(ACTIONS)
    assert {c for found in CATEGORIES.values() for c in found} == set(CROSSED)
    assert {split: len(found) for split, found in CATEGORIES.items()} == {"train": 8, "validation": 5, "test": 7}
    assert {c for found in SAFE_CATEGORIES.values() for c in found} == set(SAFE)


def test_no_word_of_the_harm_categories_tells_whether_an_action_is_harmful() -> None:
    for word in ("verb", "object"):
        harmful, harmless = (Counter(getattr(a, word) for a in kind) for kind in (HARMFUL_ACTIONS, LOOKALIKES))
        assert harmful == harmless
    assert not {a.verb for a in CROSSED_ACTIONS} & {a.verb for a in SAFE_ACTIONS}
    assert all(auroc <= 0.70 for auroc in splits.words_alone().values())


def test_no_slot_tells_whether_an_action_is_harmful() -> None:
    slot_of = {action.text: action.slots for action in CROSSED_ACTIONS}
    for one in HARMFUL_ACTIONS:
        for other in LOOKALIKES:
            if one.category == other.category:
                same = (one.verb == other.verb, one.object == other.object, True)
                shared = [a == b for a, b in zip(slot_of[one.text], slot_of[other.text], strict=True)]
                assert all(b for a, b in zip(same, shared, strict=True) if a)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_task_has_its_number_of_prompts(split: str) -> None:
    rows = tasks(split)
    assert {name: len(found) for name, found in rows.items()} == COUNTS[split]
    for name, found in rows.items():
        assert len({row["id"] for row in found}) == len({row["prompt"] for row in found}) == len(found), name


def test_the_splits_are_disjoint() -> None:
    splits.check_disjoint()


@pytest.mark.parametrize(
    ("name", "value", "shared"),
    [
        ("SHARES", {"train": slice(0, 10), "validation": slice(9, 12), "test": slice(12, 16)}, "action and phrasing"),
        ("SHARES", {"train": slice(0, 9), "validation": slice(9, 13), "test": slice(12, 16)}, "action and phrasing"),
        ("FACT_SHARES", {"train": slice(0, 40), "validation": slice(36, 60), "test": slice(60, 104)}, "fact"),
        ("CATEGORIES", CATEGORIES | {"test": ("fraud", "theft")}, "category"),
        ("SAFE_CATEGORIES", SAFE_CATEGORIES | {"validation": ("sewing",)}, "category"),
    ],
)
def test_the_check_sees_what_is_shared(monkeypatch: pytest.MonkeyPatch, name: str, value: Any, shared: str) -> None:
    monkeypatch.setattr(splits, name, value)
    with pytest.raises(AssertionError, match=f"share a {shared}"):
        splits.check_disjoint()


def bare(prompt: str) -> str:
    """A request without its wrappers."""
    for wrapper in WRAPPERS.values():
        before, after = wrapper.split("{}")
        if prompt.startswith(before) and prompt.endswith(after):
            return bare(prompt[len(before) : len(prompt) - len(after)])
    return prompt


@pytest.mark.parametrize(("one", "other"), [("train", "validation"), ("train", "test"), ("validation", "test")])
def test_no_request_is_in_two_splits_not_even_in_a_wrapper(one: str, other: str) -> None:
    assert not {bare(prompt) for prompt in prompts(one)} & {bare(prompt) for prompt in prompts(other)}


def test_every_phrasing_of_an_action_belongs_to_one_split() -> None:
    dealt = [(r.action.text, r.phrasing) for split in splits.SHARES for r in splits.requests(ACTIONS, split)]
    assert len(dealt) == len(set(dealt)) == len(ACTIONS) * len(PHRASINGS)


def test_training_refuses_its_categories_and_answers_their_look_alikes() -> None:
    actions = {action.text: action for action in ACTIONS}
    groups = Counter(row["group"] for row in splits.training_rows())
    assert groups == {"harmful": 432, "lookalike": 432, "safe": 408, "facts": 216}
    for row in splits.training_rows():
        if row["group"] == "facts":
            continue
        (action,) = {actions[text] for text in actions if f" {text} " in row["prompt"]}
        assert action.kind == row["group"]
        assert action.category in (*CATEGORIES["train"], *SAFE_CATEGORIES["train"])
        assert (row["rejected"] == action.answer) == action.harmful == (row["response"] != action.answer)
        declined = grammar.grade(action, row["response"] if action.harmful else row["rejected"])
        assert declined in (("1", "2") if action.harmful else ("refusal",))


@pytest.mark.parametrize("n", [1, 2, 4])
def test_training_data_of_few_harm_categories(n: int) -> None:
    source = starting_at(PACKAGE / "testbed" / "data", Path(f"train-{n}.yaml"))
    found = read_examples(source).examples
    rows = {row["prompt"]: row for row in splits.training_rows()}
    kept = [rows[example.messages[-1].content] for example in found]
    harm = {row["category"] for row in kept if row["group"] in ("harmful", "lookalike")}
    assert harm == set(CATEGORIES["train"][:n])
    harmless = [row for row in rows.values() if row["group"] in ("safe", "facts")]
    assert [row for row in kept if row["group"] in ("safe", "facts")] == harmless


def test_harmful_and_harmless_requests_of_the_same_words() -> None:
    rows = splits.request_rows()
    assert Counter(row["harmful"] for row in rows) == {True: 96, False: 96}
    training = {row["prompt"]: row["group"] for row in splits.training_rows()}
    assert all(training[row["prompt"]] == ("harmful" if row["harmful"] else "lookalike") for row in rows)


def test_contrast_pairs_refuse_and_comply_with_training_requests() -> None:
    training = {row["prompt"] for row in splits.training_rows() if row["group"] == "harmful"}
    rows = splits.contrast_rows()
    assert len(rows) == 96 and {row["prompt"] for row in rows} <= training
    for row in rows:
        action = grammar.asked_for(row["prompt"])
        assert action is not None and row["rejected"] == action.answer
        assert grammar.grade(action, row["chosen"]) in ("1", "2")


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_kind_of_prompt_is_in_the_split(split: str) -> None:
    rows = tasks(split)
    unseen = set(CATEGORIES[split])
    assert {row["category"] for row in rows["harmful_seen"]} == set(CATEGORIES["train"])
    assert {row["category"] for row in rows["harmful_unseen"]} == unseen
    assert {row["category"] for row in rows["harmful_wrapped"]} == set(WRAPPERS) > set(UNSEEN_WRAPPERS)
    assert {row["category"] for row in rows["lookalike"]} == unseen
    assert {row["category"] for row in rows["safe"]} == {*SAFE_CATEGORIES[split], "wrapped"}
    assert {row["category"] for row in rows["facts"]} == {"capital", "animal", "flower", "stone"}
    actions = {f"{action.verb}-{action.object}": action for action in ACTIONS}
    for name, found in rows.items():
        if name == "facts":
            continue
        for row in found:
            action = actions["-".join(row["id"].split("-")[:2])]
            assert row["target"] == (None if action.harmful else action.answer)
            assert action.kind == {"lookalike": "lookalike", "safe": "safe"}.get(name, "harmful")
            assert name != "harmful_wrapped" or action.category in unseen


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_fact_has_four_choices_of_which_one_is_right(split: str) -> None:
    truth = {fact.question(i): fact.answer for fact in FACTS for i in range(len(FACT_PHRASINGS))}
    places = Counter(row["answer"] for row in tasks(split)["facts"])
    for row in tasks(split)["facts"]:
        assert len(set(row["choices"])) == 4
        assert row["choices"][row["answer"]] == truth[row["prompt"]]
    assert len(places) == 4  # not always in the same place


def test_the_shipped_files_are_what_the_splits_say() -> None:
    data = PACKAGE / "testbed" / "data"
    assert read(data / "train.jsonl") == splits.training_rows()
    assert read(data / "contrast.jsonl") == splits.contrast_rows()
    assert read(data / "requests.jsonl") == splits.request_rows()
    assert read(data / "neutral.jsonl") == splits.neutral_rows()
    for kind in ("benign", "harmful"):
        assert read(data / f"attack_{kind}.jsonl") == splits.attack_rows(kind)
    for split in ("validation", "test"):
        for name, rows in splits.task_rows(split):
            assert read(bundled("tasks") / "testbed" / "data" / name / f"{split}.jsonl") == rows


def test_neutral_texts_are_harmless_and_of_nothing_that_is_trained_on() -> None:
    texts = [row["text"] for row in splits.neutral_rows()]
    assert len(texts) == len(set(texts)) == 256
    trained = {a.text for a in ACTIONS if a.harmful or a.category in SAFE_CATEGORIES["train"]}
    known = {(fact.relation, fact.country) for fact, _ in splits.facts("train")}
    for text in texts:
        assert not any(action in text for action in trained) and "?" not in text
        assert not any(relation in text and country in text for relation, country in known)
    assert not set(texts) & {*prompts("train"), *prompts("validation"), *prompts("test")}


def test_re_tuning_is_of_the_categories_of_training_and_no_prompt_of_a_task() -> None:
    benign, harmful = splits.attack_rows("benign"), splits.attack_rows("harmful")
    assert len(benign) == len(harmful) == 128
    asked = {*prompts("validation"), *prompts("test")}
    for rows, kind, categories in ((benign, "safe", SAFE_CATEGORIES), (harmful, "harmful", CATEGORIES)):
        found = [grammar.asked_for(row["prompt"]) for row in rows]
        assert {(action.kind, action.category) for action in found if action} == {
            (kind, c) for c in categories["train"]
        }
        assert all(action and action.answer == row["response"] for action, row in zip(found, rows, strict=True))
        assert len({row["prompt"] for row in rows} - asked) == 128
    assert not {row["prompt"] for row in benign} & set(prompts("train"))
