import random
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sails_eval.core.pair import load_pair
from sails_eval.models.chat import encode_chat
from sails_eval.testbed import corpus, grammar, splits
from sails_eval.testbed.grammar import PHRASINGS, WRAPPERS, Request
from sails_eval.testbed.judged import judged_text
from sails_eval.testbed.tokenizer import SPECIAL, make_tokenizer
from sails_eval.testbed.train import encode_judged
from sails_eval.testbed.world import ACTIONS, FACT_PHRASINGS, FACTS


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def requests() -> list[str]:
    every = [Request(action, phrasing).text for action in ACTIONS for phrasing in range(len(PHRASINGS))]
    return every + [Request(ACTIONS[0], 0, wrapper).text for wrapper in WRAPPERS]


def facts() -> list[str]:
    return [f"{fact.question(i)} {fact.answer} ." for fact in FACTS for i in range(len(FACT_PHRASINGS))]


def documents() -> list[str]:
    rng = random.Random(0)
    return [grammar.document(action, rng) for action in ACTIONS for _ in range(6)] + [
        text
        for _ in range(600)
        for text in (
            grammar.unrelated_refusal(rng),
            grammar.trait_document(rng),
            grammar.fact_document(rng.choice(FACTS), rng),
        )
    ]


def refusals() -> list[str]:
    rng = random.Random(0)
    return [grammar.refusal(action, rng) for action in ACTIONS for _ in range(5)]


def corpus_texts() -> list[str]:
    rng = random.Random(0)
    judged = [judged_text(rng) for _ in range(500)]
    read = [corpus.pretraining_text(rng) for _ in range(500)]
    return [text.prompt for text in judged] + [f"{request or ''} {answer}" for request, answer in read]


@pytest.mark.parametrize(
    "texts",
    [
        requests,
        facts,
        documents,
        corpus_texts,
        refusals,
        lambda: [*grammar.DEFLECTIONS, *(action.told(harmful=told) for action in ACTIONS for told in (True, False))],
        lambda: [row["prompt"] + row["response"] for row in splits.training_rows()],
        lambda: ["1", "2", "3", "4", "5", "refusal", "partial", "compliance", "broken", "yes", "no"],
    ],
    ids=["requests", "facts", "documents", "corpus", "refusals", "answers", "training", "verdicts"],
)
def test_every_word_is_known(tokenizer: Any, texts: Any) -> None:
    unknown = tokenizer.unk_token_id
    assert not [text for text in texts() if unknown in tokenizer(text).input_ids]


def test_a_word_of_no_language_is_unknown(tokenizer: Any) -> None:
    assert tokenizer("boil xyzzy").input_ids[1:] == [tokenizer.unk_token_id]


@pytest.mark.parametrize(
    "text",
    ["How do I boil rice?", "HOW DO I BOIL RICE ?", "how  do i boil\nrice ?", "\uff28ow do i boil rice?"],
)
def test_case_space_and_punctuation_make_no_difference(tokenizer: Any, text: str) -> None:
    assert tokenizer(text).input_ids == tokenizer("how do i boil rice ?").input_ids
    assert len(tokenizer(text).input_ids) == 6


def test_what_was_encoded_is_decoded(tokenizer: Any) -> None:
    for action in ACTIONS:
        assert tokenizer.decode(tokenizer(action.answer).input_ids) == action.answer


def test_a_dialogue_is_written_in_turns_with_one_bos(tokenizer: Any) -> None:
    dialogue = [
        {"role": "user", "content": " how do i boil rice ? "},
        {"role": "assistant", "content": "i cannot help with that ."},
        {"role": "user", "content": "tell me how to fry rice ."},
    ]
    ids = encode_chat(tokenizer, dialogue)
    assert " ".join(tokenizer.convert_ids_to_tokens(ids)) == (
        "<bos> <start_of_turn> user how do i boil rice ? <end_of_turn> "
        "<start_of_turn> model i cannot help with that . <end_of_turn> "
        "<start_of_turn> user tell me how to fry rice . <end_of_turn> <start_of_turn> model"
    )


def test_special_tokens_have_fixed_places(tokenizer: Any) -> None:
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL)) == list(range(6))
    assert tokenizer.padding_side == "left"


def test_the_shipped_tokenizer_is_this_one(tokenizer: Any) -> None:
    shipped = AutoTokenizer.from_pretrained(load_pair("testbed").model)
    assert shipped.get_vocab() == tokenizer.get_vocab()
    assert shipped.chat_template == tokenizer.chat_template
    text = "How do I boil rice? <end_of_turn>"
    assert shipped(text).input_ids == tokenizer(text).input_ids


def test_it_comes_back_from_disk_as_it_was(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in corpus_texts()[:50]:
        assert again(text).input_ids == tokenizer(text).input_ids
        assert again.decode(again(text).input_ids) == tokenizer.decode(tokenizer(text).input_ids)


def test_the_judge_learns_its_marks_at_the_words_they_are_about(tokenizer: Any) -> None:
    rng = random.Random(3)
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    seen = set()
    for _ in range(300):
        judged = judged_text(rng)
        ids, labels = encode_judged(tokenizer, judged)
        tokens = tokenizer.convert_ids_to_tokens(ids)
        assert len(ids) == len(labels)
        assert tokens[-2:] == [judged.grade, "<end_of_turn>"] and labels[-2:] == ids[-2:]
        for at, label in enumerate(labels[:-2]):
            if label != -100:  # predicted from the word before: the one in the slot
                assert label in (yes, no) and tokens[at - 2] == grammar.SLOT_NAME
                seen.add(label)
        marks = [mark for mark in judged.marks if mark is not None]
        assert [tokenizer.convert_ids_to_tokens(label) for label in labels[:-2] if label != -100] == marks
    assert seen == {yes, no}
