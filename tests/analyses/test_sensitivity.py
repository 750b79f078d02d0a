"""How much a board depends on the judge's wording, on a small run whose judge grades by what its rubric is called."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sails_eval.analyses import sensitivity
from sails_eval.analyses.sensitivity import WORDINGS, measure, report
from sails_eval.boards.scoring import score, write_results
from sails_eval.cli import main
from sails_eval.core.errors import UserError
from sails_eval.core.files import write_jsonl
from sails_eval.core.records import Completion, Label, RowKey, Verdict
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, Usage, ignore
from sails_eval.judges.spec import parse
from sails_eval.judges.usage import USAGE, add_usage, read_usage
from sails_eval.tasks.library import find_tasks

LABELS: dict[int, Label] = {1: "refusal", 2: "deflection", 3: "partial", 4: "compliance", 5: "compliance"}


class Worded(Judge):
    """Reads an answer such as `1125`: one grade for each wording; counts what it is asked."""

    fingerprint = ""
    asked = 0

    def __init__(self, spec: str) -> None:
        [one] = parse(spec)
        self.name, self.rubric = one.bare, one.options.get("rubric", "harm")
        self.fingerprint = f"{WORDINGS.index(self.rubric)}{'0' * 8}"

    def check(self) -> None:
        if self.name == "hf:ill":
            raise UserError("unwell")

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        Worded.asked += len(completions)
        return [self.say(completion) for completion in completions]

    def say(self, completion: Completion) -> Verdict:
        grade = completion.response[WORDINGS.index(self.rubric)]
        if grade == "x":
            return Verdict(completion.id, unscored="no verdict")
        return Verdict(completion.id, LABELS[int(grade)], int(grade))


@pytest.fixture
def run(tmp_path: Path, own_tasks: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Base, and two methods of two seeds; of four harmful answers each, b's get worse by other wordings."""
    results = []
    grades = {"base": ["5555"] * 4, "a": ["1111", "1111", "5555", "5555"], "b": ["1111", "1111", "1155", "555x"]}
    for method, answers in grades.items():
        for seed in (None,) if method == "base" else (0, 1):
            rate = None if seed is None else 0.001
            folder = tmp_path / "run" / "cells" / method
            if seed is not None:
                folder = folder / f"rate-0.001-seed-{seed}-abcdef"
            completions = [Completion(str(i), "q", answer, "c") for i, answer in enumerate(answers)]
            write_jsonl(folder / "completions" / "test" / "bad.jsonl", completions)
            own = [Verdict(str(i), LABELS[int(answer[0])], int(answer[0])) for i, answer in enumerate(answers)]
            results += score("harmful", completions, own, row=RowKey(method, seed, rate, "test", "bad"))
            helped = [Verdict(str(i), "compliance" if i else "refusal") for i in range(4)]
            results += score("safe", completions, helped, row=RowKey(method, seed, rate, "test", "good"))
    write_results(tmp_path / "run" / "results.csv", results)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sensitivity, "load_judge", Worded)
    monkeypatch.setattr(Worded, "asked", 0)
    return tmp_path / "run"


def test_bands_are_over_the_wordings(run: Path) -> None:
    found = measure(run, "hf:me")
    assert found.judge == "hf:me" and tuple(found.values) == WORDINGS
    for metric in ("refusal_rate", "safety_rate"):
        assert found.band("a", metric) == (0.5, 0.5)
        assert found.band("b", metric) == (0.5, 0.75)
    assert found.band("b", "alignment_score") == pytest.approx((0.25, 0.5))
    assert found.band("base", "alignment_score") == (-0.25, -0.25)
    assert found.unscored == pytest.approx(2 / 20)
    assert found.changing_places == []  # never better than a by one wording and worse by another
    line = next(line for line in report(found).splitlines() if line.startswith("b "))
    assert " ".join(line.split()) == "b 0.750 [0.500, 0.750] 0.750 [0.500, 0.750] 0.500 [0.250, 0.500]"
    assert report(found).endswith("unscored at most 10.0 %\nranking stable: yes")


def test_verdicts_are_kept(run: Path) -> None:
    first = measure(run, "hf:me")
    assert Worded.asked == 4 * 5 * len(WORDINGS)
    assert measure(run, "hf:me") == first
    assert Worded.asked == 4 * 5 * len(WORDINGS)


def test_what_it_took_is_added_to_the_usage_of_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Remote(Worded):
        """It is asked about what is new and what was unscored, and counts that."""

        parallel = False

        def __init__(self, spec: str) -> None:
            super().__init__(spec)
            self.used = 0

        def take_usage(self) -> Usage:
            used, self.used = self.used, 0
            return Usage(used, 10 * used, used, used / 100)

        def judge(
            self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
        ) -> list[Verdict]:
            self.used += len(completions)
            for verdict in (verdicts := super().judge(kind, completions)):
                on_verdict(verdict)
            return verdicts

    monkeypatch.setattr(sensitivity, "load_judge", Remote)
    add_usage(run / USAGE, "another", Usage(1))
    measure(run, "hf:me", quiet=True)
    asked = Worded.asked  # once for each of the different answers
    assert 10 < asked < 40 and read_usage(run / USAGE)["hf:me"] == Usage(asked, 10 * asked, asked, asked / 100)
    assert main(["leaderboard", "sensitivity", str(run), "--judge", "hf:me", "-q"]) == 0
    assert Worded.asked == asked + 1  # the one that was unscored
    told = capsys.readouterr().out
    assert "judge another has used 1 requests, 0 + 0 tokens\n" in told
    assert f"judge hf:me has used {asked + 1} requests, {10 * asked + 10} + {asked + 1} tokens, 0." in told


def test_methods_that_change_places_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in run.glob("cells/a/*/completions/test/bad.jsonl"):
        answers = ["1111", "1111", "5111", "5555"]
        write_jsonl(file, [Completion(str(i), "q", answer, "c") for i, answer in enumerate(answers)])
    assert main(["leaderboard", "sensitivity", str(run), "--judge", "hf:me"]) == 0
    assert "ranking stable: no (a and b change places)" in capsys.readouterr().out


def test_bad_input_is_named_before_anything_is_judged(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unwell"):
        measure(run, "hf:ill")
    with pytest.raises(UserError, match=r"no results\.csv"):
        measure(tmp_path / "nothing", "hf:me")
    (run / "cells" / "base").rename(run / "elsewhere")
    with pytest.raises(UserError, match="the answers of 'base' are missing"):
        measure(run, "hf:me")
    assert Worded.asked == 0


def test_gated_prompts_are_judged_elsewhere_only_by_leave(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    card = find_tasks()["hex_phi"].card
    known = {name: replace(task, card=card) for name, task in find_tasks().items()}
    monkeypatch.setattr(sensitivity, "find_tasks", lambda *_: known)
    with pytest.raises(UserError, match=r"add --send-to api\.openai\.com"):
        measure(run, "openai:some-model", quiet=True)
    assert measure(run, "openai:some-model", send_to=["api.openai.com"], quiet=True).judge == "openai:some-model"


def test_a_judge_without_rubrics_has_no_wording(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(run.parent)
    with pytest.raises(UserError, match="judge 'rules' has no option 'rubric'"):
        measure(run, "rules")
