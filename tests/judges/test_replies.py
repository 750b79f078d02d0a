"""What counts as a judge's verdict, and what is too unclear to be one: replies of every form."""

import pytest

from sails_eval.judges.api_reply import ReplyChoice, verdict_in
from sails_eval.judges.rubric import load_rubric

THOUGHT = "<think>Is it 1 or 5? Verdict: 5</think>\n"

GRADED = {
    # as asked for
    '{"verdict": "3"}': 3,
    "Verdict: 3": 3,
    "It gives a little.\nVerdict: 3": 3,
    "verdict: Broken": 2,
    "The answer says\nVerdict: 1\nbut it gives a little.\nVerdict: 3": 3,
    "It says `Verdict: 5`, which is no verdict of mine.\n\n**Verdict: 3**": 3,
    # as it is written all the same
    "Verdict: 3/5": 3,
    "**Verdict:** 3 / 5.": 3,
    "Verdict: 3 out of 5": 3,
    "**Verdict**: `3`": 3,
    'Verdict: "3"': 3,
    "_Verdict: **3**_": 3,
    "```\nVerdict: 3\n```": 3,
    "VERDICT : 3": 3,
    # nothing but an option
    "3": 3,
    " 3.\n": 3,
    "**3**": 3,
    '"3"': 3,
    "3/5": 3,
    "Broken": 2,
    # JSON
    '{"verdict": 3}': 3,
    '{"Verdict": "3"}': 3,
    '{"verdict": "3/5"}': 3,
    '{"reasoning": "It is no 1, and no 5 either.", "verdict": "3"}': 3,
    '{"reasoning": "It ends in Verdict: 1", "verdict": 3}': 3,
    '{"verdict": "3", "reasoning": "Verdict: 5 would be too much."}': 3,
    '{"verdict": "3", "confidence": 0.9, "refused": false, "why": null}': 3,
    '{"analysis": {"harm": "some", "parts": ["one", "two"]}, "verdict": "3"}': 3,
    '```json\n{"reasoning": "some",\n "verdict": "3"}\n```': 3,
    '```\n{"verdict": 3}\n```': 3,
    'It gives a little.\n\n```json\n{"verdict": "3"}\n```': 3,
    'It gives a little.\n{"verdict": "3"}': 3,
    '{"reasoning": "' + "It goes on. " * 400 + '", "verdict": "3"}': 3,
    # behind reasoning
    'It gives a little.</think>\n{"verdict": "3"}': 3,
    THOUGHT + "Verdict: 3": 3,
    THOUGHT + "3": 3,
    THOUGHT + '{"verdict": "3"}': 3,
    THOUGHT + "Verdict: 3\n\nThe answer gives some of it, but leaves out how.": 3,
    THOUGHT + "**Verdict: 3/5**\nIt is vague.": 3,
    THOUGHT + "<answer>Verdict: 3</answer>": 3,
}

UNCLEAR = (
    # two
    "Verdict: 3 or 4",
    "Verdict: 3-4",
    "Verdict: 3, 4",
    "3 or 4",
    "3\n4",
    "Verdict: 3\n\n**Verdict:** 4 (nearly all of it)",
    '{"verdict": "3", "verdict": "4"}',
    '{"verdict": "3"}\n{"verdict": "4"}',
    '{"verdict": ["3", "4"]}',
    '{"verdict": "3 or 4"}',
    '{"verdict": "3", "final_verdict": "4"}',
    '{"verdict": "3", "score": 4}',
    '{"first": {"verdict": "4"}, "verdict": "3"}',
    '[{"verdict": "3"}, {"verdict": "4"}]',
    '{"verdict": "3"}\nOn reflection it is a 4.',
    '```json\n{"verdict": "3"}\n```\n```json\n{"verdict": "4"}\n```',
    THOUGHT + "Verdict: 3\n\nOr rather 4.",
    THOUGHT + "Verdict: 3\nFinal verdict, seen again: all of it",
    # on another scale, or on none
    "Verdict: 3.5",
    "3.5",
    "Verdict: 3/10",
    "3/10",
    "Verdict: 3 out of 10",
    "Verdict: 0.3",
    "Verdict: -3",
    "Verdict: 6",
    "Verdict: 33",
    "Verdict: 3%",
    "Verdict: three",
    '{"verdict": 3.5}',
    '{"verdict": "3/10"}',
    '{"verdict": true}',
    '{"verdict": null}',
    '{"verdict": {"3": "yes"}}',
    # only in the text
    "It is a 3.",
    "I would give it 3 of 5 points",
    "There are 3 steps in it",
    "This is no refusal but broken",
    "Verdict: see above",
    "Verdict:",
    "The verdict is somewhere around 3",
    "Verdict: 3, though it may be worse",
    "Verdict: 3?",
    "Verdict: not 3",
    '{"score": "3"}',
    '{"reasoning": "Verdict: 3"}',
    '{"result": {"verdict": "3"}}',
    '{"reasoning": "cut off here, Verdict: 3',
    '{"verdict": "3"',
    # somebody else's
    'The answer closes with\n"Verdict: 1"',
    'It says "Be kind.\nVerdict: 1"',
    "It ends in\n> Verdict: 1",
    "The answer has </think>\nVerdict: 1\nin it, and gives all that was asked for.",
    "The answer has </think>\n1",
    "Verdict: 1\nis what it wants to hear, but it gives all that was asked for.",
    THOUGHT + "It is hard to say.",
    "<think>Verdict: 3</think>",
    "<think>Verdict: 3",
    "",
)


@pytest.mark.parametrize(("reply", "score"), GRADED.items())
def test_a_verdict_is_read(reply: str, score: int) -> None:
    verdict = verdict_in(_choice(reply), load_rubric("harm"), "id")
    assert (verdict.score, verdict.unscored, verdict.raw) == (score, None, None)


@pytest.mark.parametrize("reply", UNCLEAR)
def test_what_is_unclear_is_no_verdict_and_is_kept(reply: str) -> None:
    verdict = verdict_in(_choice(reply), load_rubric("harm"), "id")
    assert (verdict.label, verdict.score, verdict.raw) == (None, None, reply)
    assert (verdict.unscored or "").startswith("the judge's reply ")


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("Verdict: partly-declined", "partial"),
        ("Partly-Declined.", "partial"),
        ('{"why": "helpful in part", "verdict": "partly-declined"}', "partial"),
        ("Verdict: refusal/helpful", None),
        ("Verdict: helpful/5", None),
        ("Verdict: partly", None),
        ("Verdict: not helpful", None),
        ("Partly declined, and otherwise helpful", None),
        ('{"refusal": "helpful", "verdict": "refusal"}', None),
    ],
)
def test_options_may_be_words(reply: str, label: str | None) -> None:
    assert verdict_in(_choice(reply), load_rubric("helpfulness"), "id").label == label


@pytest.mark.parametrize(("reply", "score"), [("2", 2), (THOUGHT + "2.", 2), ("Verdict: 2", None), ("2 3", None)])
def test_a_rubric_of_single_words_takes_nothing_else(reply: str, score: int | None) -> None:
    assert verdict_in(_choice(reply), load_rubric("testbed_harm"), "id").score == score


@pytest.mark.parametrize("part", ["{\n", "[", '{"a": ', "Verdict: ", "verdict", "`", "3", "3 ", "<think>", "*"])
def test_a_reply_without_end_is_read_in_no_time(part: str) -> None:
    assert verdict_in(_choice(part * 10**5), load_rubric("harm"), "id").score is None


def _choice(reply: str) -> ReplyChoice:
    return ReplyChoice.model_validate({"message": {"content": reply}, "finish_reason": "stop"})
