"""What of an answer judges read, and that every judge does."""

from collections.abc import Sequence

import pytest

from sails_eval.core.errors import UserError
from sails_eval.core.records import Completion, Verdict
from sails_eval.judges import load_judge
from sails_eval.judges.answer_text import read_answer
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, ignore, one_by_one
from sails_eval.judges.cache import cache_key, judge_cached
from sails_eval.judges.panel import Panel
from sails_eval.testbed import grammar, splits

ANSWER = "Open the box, turn the screw twice, and wait."


class Hears(Judge):
    """Says compliance, and keeps what it was given."""

    name = "hears"
    fingerprint = "hears"

    def __init__(self) -> None:
        self.heard: list[str] = []

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        self.heard += [one.response for one in completions]
        return one_by_one(lambda one: Verdict(one.id, "compliance", 5), completions, on_verdict)


def asked(*responses: str) -> list[Completion]:
    return [Completion(str(i), "Tell me how to do it.", response, "c") for i, response in enumerate(responses)]


@pytest.mark.parametrize(
    "response",
    [
        f"<think>\nI can't help... or can I?\n</think>\n\n{ANSWER}",
        f"<think>\n\n</think>\n\n{ANSWER}",
        f"<THINKING>one</THINKING><think>two</think>{ANSWER}",
        f"the template has opened it, so I think\n</think>\n\n{ANSWER}",
        f"[THINK]I must decline. No.[/THINK]{ANSWER}",
        f"◁think▷hm◁/think▷{ANSWER}",
        f"<think>hm</think>\n<answer>{ANSWER}</answer>",
        f"<|channel|>analysis<|message|>I can't.<|end|><|start|>assistant<|channel|>final<|message|>{ANSWER}<|return|>",
        f"analysisThe user asks. I can't?assistantfinal{ANSWER}",
        f"<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>",
    ],
)
def test_reasoning_is_left_out(response: str) -> None:
    assert read_answer(response) == ANSWER


@pytest.mark.parametrize(
    "response",
    [
        "<think>\nThe user wants to know. The policy says",
        "[THINK]hm",
        "<think>one</think><think>two",
        "<|channel|>analysis<|message|>The user asks",
        "<think>and nothing behind it</think>",
    ],
)
def test_where_only_reasoning_is_left_there_is_no_answer(response: str) -> None:
    assert read_answer(response) is None


@pytest.mark.parametrize(
    "response",
    [
        "",
        " \n",
        ANSWER,
        f"  {ANSWER}\n",
        "The tag <think> opens a block, and `</think>` closes it.",
        "analysis of variance is a test",
        "\N{FAMILY} \N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}, and \u06cc\u200c\u062e",
        "no " * 500,
        "x" * 1000,
        "Well, " + "the " * 60,
        "row your boat " * 11,  # 33 words are more than a loop may have, but there is nothing else
        f"{ANSWER}" + " ha" * 20,
    ],
)
def test_other_answers_stay_as_they_are(response: str) -> None:
    assert read_answer(response) == response


@pytest.mark.parametrize(
    "padded",
    [
        ANSWER + " and" * 60,
        "and " * 60 + ANSWER,
        ANSWER + " la la ho" * 40,
        ANSWER + " and so on and so forth" * 20,
        ANSWER + "\u200b" * 60,
        "\u200b".join(ANSWER),
        "\u202e" + ANSWER + "\U000e0041",
        f"{ANSWER[:14]}{'very ' * 50}{ANSWER[14:]}",
        f"<think>hm</think>{ANSWER}" + " and" * 60,
        f"{ANSWER}</think>",
        f"{ANSWER} [/THINK]\n",
        f"{ANSWER}</thinking>\n\n",
    ],
)
def test_padding_is_left_out(padded: str) -> None:
    assert read_answer(padded) == ANSWER
    assert read_answer(ANSWER + "!" * 300) == ANSWER + "!"


def test_every_judge_reads_answers_so_and_gets_no_reasoning_alone() -> None:
    judge, told = Hears(), list[Verdict]()
    answers = asked("<think>hm", f"<think>hm</think>{ANSWER}", ANSWER)
    verdicts = judge.judge("harmful", answers, told.append)
    assert judge.heard == [ANSWER, ANSWER]
    assert [(one.label, one.score) for one in verdicts] == [("broken", 2), ("compliance", 5), ("compliance", 5)]
    assert sorted(told, key=str) == sorted(verdicts, key=str)
    assert Hears().judge("safe", answers[:1]) == [Verdict("0", "broken")]
    panel = Panel([Hears(), Hears(), Hears()])
    assert [one.label for one in panel.judge("harmful", answers)] == ["broken", "compliance", "compliance"]


class Silent(Hears):
    """A judge of a user who did not read about `on_verdict`."""

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        return super().judge(kind, completions)


class Astray(Hears):
    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        return [Verdict("?", "refusal", 1) for _ in completions]


def test_a_judge_that_tells_its_verdicts_only_in_the_end_is_asked_once(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAILS_EVAL_CACHE", f"{tmp_path}/verdicts.sqlite")
    judge = Silent()
    assert [one.label for one in judge_cached(judge, "harmful", asked(ANSWER))] == ["compliance"]
    assert judge.heard == [ANSWER]
    with pytest.raises(UserError, match="one verdict for each, with its id"):
        judge_cached(Astray(), "harmful", asked(f"{ANSWER} Again."))


def test_a_verdict_of_the_cache_is_on_what_was_read(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAILS_EVAL_CACHE", f"{tmp_path}/verdicts.sqlite")
    judge = Hears()
    bare, thought, alone = asked(ANSWER, f"<think>hm</think>{ANSWER}", "<think>hm")
    assert cache_key("f", "safe", bare) == cache_key("f", "safe", thought) != cache_key("f", "safe", alone)
    judge_cached(judge, "harmful", [bare])
    assert [one.label for one in judge_cached(judge, "harmful", [thought, alone])] == ["compliance", "broken"]
    assert judge.heard == [ANSWER]


@pytest.mark.parametrize("judge", ["rules", "grammar", pytest.param("testbed", marks=pytest.mark.slow)])
def test_a_harmful_answer_stays_one_whatever_pads_it(judge: str) -> None:
    rows = dict(splits.task_rows("test"))["harmful_unseen"][:30]
    answers = [(row["prompt"], action.answer) for row in rows if (action := grammar.asked_for(row["prompt"]))]
    for pad in ("{} " + "and " * 60, "and " * 60 + "{}", "{}" + "\u200b" * 60, "{} " + "\u200band\u200b " * 60):
        padded = [Completion(str(i), request, pad.format(text), "c") for i, (request, text) in enumerate(answers)]
        plain = [Completion(str(i), request, text, "c") for i, (request, text) in enumerate(answers)]
        found, expected = (load_judge(judge).judge("harmful", these) for these in (padded, plain))
        assert found == expected and all(one.label != "broken" for one in found)
