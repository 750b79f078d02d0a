"""Calibration: people's labels in many shapes, figures from counts done by hand, and what boards say of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sails_eval.boards.facts import RowFacts
from sails_eval.boards.scoring import MEASURES
from sails_eval.cli import main
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import read_jsonl
from sails_eval.core.records import Completion, Result, Verdict
from sails_eval.judges import calibration as module
from sails_eval.judges import load_judge
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, Usage, ignore
from sails_eval.judges.calibration import (
    Calibration,
    LabelColumns,
    Reading,
    calibrate,
    disagreements,
    note_on,
    read_calibration,
    save,
)
from sails_eval.judges.panel import Panel
from sails_eval.plan.prepare import prepare_evaluation
from sails_eval.run.folder.records import Description
from sails_eval.run.report.outcome import Outcome
from sails_eval.run.report.report import board


class Reader(Judge):
    """A judge that finds its verdict in the answer: a label, a grade, or nothing it could read."""

    name, fingerprint = "reader", "f1"

    def judge(self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore) -> Any:
        return [self._verdict(one, kind) for one in completions]

    def _verdict(self, one: Completion, kind: JudgedKind) -> Verdict:
        if one.response == "?":
            return Verdict(one.id, unscored="cannot be read")
        if one.response.isdigit():
            return Verdict(one.id, "refusal", int(one.response))
        return Verdict(one.id, one.response, 1 if kind == "harmful" else None)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def reader(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The judge `reader`, and a working directory of its own."""
    monkeypatch.setattr(module, "load_judge", lambda spec: Reader() if spec == "reader" else load_judge(spec))
    monkeypatch.chdir(tmp_path)


def labels(name: str, pairs: Sequence[tuple[object, object]]) -> Path:
    """A file of people's and the judge's labels."""
    rows = [{"prompt": "q", "response": str(judge), "label": people} for people, judge in pairs]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(name)


def measure(*files: Path, reading: Reading | None = None, columns: LabelColumns | None = None) -> Calibration:
    return calibrate("reader", files, columns=columns or LabelColumns(), reading=reading or Reading(), quiet=True)[0]


WORDS = [
    *[("refusal", "refusal")] * 6,
    *[("partial", "refusal")] * 2,
    *[("partial", "compliance")],
    *[("compliance", "compliance")] * 9,
    *[("compliance", "partial")],
    *[("compliance", "?")] * 2,
]


def test_figures_are_those_counted_by_hand() -> None:
    found = measure(labels("a.jsonl", WORDS)).pooled
    assert (found.answers, found.unscored, found.reasons) == (21, 2, {"cannot be read": 2})
    assert found.accuracy and found.found and found.spared and found.kappa
    assert found.accuracy.value == pytest.approx(17 / 19)
    assert found.found.value == pytest.approx(8 / 9) and found.spared.value == pytest.approx(9 / 10)
    by_chance = (9 * 9 + 10 * 10) / 19**2
    assert found.kappa.value == pytest.approx((17 / 19 - by_chance) / (1 - by_chance))
    assert found.confusion["partial"] == {"refusal": 2, "partial": 0, "compliance": 1}
    assert sum(sum(row.values()) for row in found.confusion.values()) == 19


def test_a_deflection_counts_as_a_refusal_on_either_side() -> None:
    pairs = [("deflection", "refusal"), ("refusal", "deflection"), ("compliance", "compliance")]
    found = measure(labels("a.jsonl", pairs)).pooled
    assert found.kappa and found.kappa.value == 1
    assert found.confusion["deflection"]["refusal"] == 1


def test_partial_refusals_can_count_as_compliance() -> None:
    found = measure(labels("a.jsonl", WORDS), reading=Reading(partial="compliance")).pooled
    assert found.found and found.found.value == 1
    assert found.spared and found.spared.value == pytest.approx(11 / 13)


def test_an_unscored_answer_counts_as_nothing() -> None:
    with_them, without = WORDS, [pair for pair in WORDS if pair[1] != "?"]
    one, other = (measure(labels("a.jsonl", pairs)).pooled for pairs in (with_them, without))
    assert one.kappa == other.kappa and one.accuracy == other.accuracy and one.confusion == other.confusion


def test_nothing_but_unscored_answers_is_no_figure() -> None:
    silent = labels("a.jsonl", [("refusal", "?"), ("compliance", "?")])
    with pytest.raises(UserError, match=r"scored none of 2 answers \(2 × cannot be read\)"):
        measure(silent)
    found = measure(silent, labels("b.jsonl", WORDS)).files[0]
    assert (found.kappa, found.accuracy, found.found, found.unscored) == (None, None, None, 2)


def test_grades_have_a_weighted_kappa_and_a_binary_one() -> None:
    calibration = measure(labels("a.jsonl", [(1, 1), (2, 1), (5, 5), (4, 5), (3, 2), (5, "?")]))
    assert (calibration.kind, calibration.graded) == ("harmful", True)
    found = calibration.pooled
    assert found.weighted and 0.8 < found.weighted.value < 1
    assert found.found and found.found.value == pytest.approx(2 / 3)  # of 5, 4 and 3
    assert found.spared and found.spared.value == 1
    with pytest.raises(UserError, match="--kind safe: its verdicts have no grades"):
        measure(Path("a.jsonl"), reading=Reading(kind="safe"))


def test_several_files_get_a_row_each_and_one_together() -> None:
    calibration = measure(
        labels("a.jsonl", WORDS), labels("b.jsonl", [("refusal", "refusal"), ("compliance", "refusal")])
    )
    assert [file.name for file in calibration.files] == ["a.jsonl", "b.jsonl"]
    assert calibration.pooled.answers == 23 and calibration.pooled.name == "pooled"
    one, other = calibration.notes().values()
    assert one.startswith("kappa 0.7") and one.endswith("on 19 answers (a.jsonl), 2 more unscored")
    assert other.startswith("kappa 0.00 [-") and other.endswith("on 2 answers (b.jsonl)")


def test_xstest_is_recognised_with_its_annotators() -> None:
    names = {"r": "2_full_refusal", "p": "3_partial_refusal", "c": "1_full_compliance"}
    said = {"r": "I cannot help with that.", "p": "I cannot help with that.", "c": "Here is a list of it."}
    with Path("x.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "completion", "annotation_1", "annotation_2", "final_label"])
        for n, (final, one, other) in enumerate(map(tuple, ["rrr", "ppr", "ccc", "ccp", "rrr", "ccc"])):
            writer.writerow([f"v2-{n}", "q", said[final], names[one], names[other], names[final]])
    calibration, _ = calibrate("rules", [Path("x.csv")], columns=LabelColumns(), reading=Reading(), quiet=True)
    (found,) = calibration.files
    assert found.kappa and found.kappa.value == 1
    assert found.annotators and found.annotators.value == pytest.approx(2 / 3)


def test_a_file_without_labels_is_told_in_our_own_words() -> None:
    Path("a.jsonl").write_text('{"prompt": "q", "response": "a"}\n')
    with pytest.raises(UserError, match=r"a.jsonl:1: no column 'label'; name it with --label-column"):
        measure(Path("a.jsonl"))


def test_grades_may_be_written_with_a_point() -> None:
    found = measure(labels("a.jsonl", [(1.0, 1), (5.0, 5), (3, 4)])).pooled
    assert found.confusion["3"]["4"] == 1 and found.accuracy and found.accuracy.value == 1


def test_other_names_are_mapped() -> None:
    path = labels("a.jsonl", [("declined", "refusal"), ("helped", "compliance")])
    with pytest.raises(UserError, match=r"a.jsonl:1: column 'label': unknown label 'declined'.*--map"):
        measure(path)
    found = measure(path, reading=Reading({"declined": "refusal", "helped": "compliance"})).pooled
    assert found.kappa and found.kappa.value == 1


@pytest.mark.parametrize(
    ("pairs", "columns", "words"),
    [
        ([("refusal", "refusal"), (3, 3)], {}, "the labels mix grades .* and words"),
        ([("", "refusal")], {}, "a.jsonl:1: column 'label': unknown label ''"),
        ([(None, "refusal")], {}, "a.jsonl:1: column 'label': unknown label 'None'"),
        ([(2.5, "refusal")], {}, "a.jsonl:1: column 'label': unknown label '2.5'"),
        ([("refusal", "refusal")], {"label": "gold"}, "a.jsonl:1: no column 'gold'; name it with --label-column"),
        ([("refusal", "refusal")], {"annotators": ("label",)}, "--annotators takes two columns"),
    ],
)
def test_faulty_labels_are_named(pairs: list[Any], columns: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        measure(labels("a.jsonl", pairs), columns=LabelColumns(**columns))


def test_a_calibration_is_saved_with_its_disagreements() -> None:
    calibration, compared = calibrate(
        "reader", [labels("a.jsonl", WORDS)], columns=LabelColumns(), reading=Reading(), quiet=True
    )
    path = save(calibration, compared, Reading())
    assert path.parent == Path("calibrations") and read_calibration(path) == calibration
    found = list(read_jsonl(path.with_suffix(".disagreements.jsonl")))
    assert found == disagreements(calibration, compared, Reading())
    assert [(one["people"], one["judge"]) for one in found[:2]] == [
        ("partial", "compliance"),
        ("compliance", "partial"),
    ]
    assert [one["sides"] for one in found] == ["different"] * 2 + ["same"] * 2
    confusion = calibration.pooled.confusion
    assert len(found) == sum(n for people, row in confusion.items() for judge, n in row.items() if judge != people)
    assert {one.name for one in path.parent.iterdir()} == {path.name, path.with_suffix(".disagreements.jsonl").name}


def test_boards_name_the_calibrations_of_their_judge_only() -> None:
    calibration, compared = calibrate(
        "reader", [labels("a.jsonl", WORDS)], columns=LabelColumns(), reading=Reading(), quiet=True
    )
    judge = Reader()
    assert note_on(judge) == ""
    path = save(calibration, compared, Reading())
    assert note_on(judge) == note_on(judge, path) == calibration.notes()["a.jsonl"]
    judge.fingerprint = "f2"  # another version of it
    assert note_on(judge) == ""
    with pytest.raises(UserError, match=r"a calibration of judge 'reader' \(f1\), not of 'reader' \(f2\)"):
        note_on(judge, path)


def test_of_each_file_of_labels_the_latest_calibration_counts() -> None:
    def made(date: str, *files: str) -> dict[str, str]:
        calibration, compared = calibrate(
            "reader", list(map(Path, files)), columns=LabelColumns(), reading=Reading(), quiet=True
        )
        dated = calibration.model_copy(update={"date": date})
        save(dated, compared, Reading(), Path(f"calibrations/{date}-{len(files)}.json"))
        return dated.notes()

    labels("b.jsonl", [("refusal", "refusal"), ("compliance", "refusal")])
    labels("a.jsonl", WORDS[:15])
    old = made("2026-05-01", "a.jsonl", "b.jsonl")
    labels("a.jsonl", WORDS)
    new = made("2026-06-01", "a.jsonl")
    labels("a.jsonl", WORDS[:10])
    made("2026-04-01", "a.jsonl")
    assert old["a.jsonl"] != new["a.jsonl"]
    assert note_on(Reader()) == f"{new['a.jsonl']}; {old['b.jsonl']}"


def test_all_that_is_off_the_diagonal_is_a_disagreement() -> None:
    pairs = [("refusal", "partial"), ("compliance", "broken"), ("refusal", "compliance"), ("refusal", "refusal")]
    calibration, compared = calibrate(
        "reader", [labels("a.jsonl", pairs)], columns=LabelColumns(), reading=Reading(), quiet=True
    )
    found = disagreements(calibration, compared, Reading())
    assert [(one["people"], one["judge"], one["sides"]) for one in found] == [
        ("refusal", "compliance", "different"),
        ("refusal", "partial", "same"),
        ("compliance", "broken", "same"),
    ]


def test_files_of_one_name_are_refused() -> None:
    Path("more").mkdir()
    with pytest.raises(UserError, match=r"--labels: two files are called 'a\.jsonl'"):
        measure(labels("a.jsonl", WORDS), labels("more/a.jsonl", WORDS))


def test_what_judging_took_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(Reader):
        parallel = False

        def take_usage(self) -> Usage:
            return Usage(3, 30, 3, 0.25)

        def judge(self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore) -> Any:
            for verdict in (verdicts := super().judge(kind, completions)):
                on_verdict(verdict)
            return verdicts

    monkeypatch.setattr(module, "load_judge", lambda spec: Counting())
    found = measure(labels("a.jsonl", WORDS), labels("b.jsonl", [("refusal", "refusal"), ("refusal", "broken")]))
    assert found.usage == {"reader": Usage(6, 60, 6, 0.5)}
    assert not list(Path().glob("calibrations/.judging-*"))


def test_what_a_panel_took_is_printed_and_counted_over_a_stop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first try ends with the third request, as a quota does."""
    asked: list[str] = []
    unpaid: list[str] = []

    class Counting(Reader):
        parallel = False

        def judge(self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore) -> Any:
            verdicts = []
            for one in completions:
                asked.append(one.response)
                unpaid.append(one.response)
                if len(asked) == 3:
                    raise UserError("the quota is used up")
                verdicts.append(self._verdict(one, kind))
                on_verdict(verdicts[-1])
            return verdicts

        def take_usage(self) -> Usage:
            used = len(unpaid)
            unpaid.clear()
            return Usage(used, 10 * used, used, 0.25 * used)

    monkeypatch.setattr(module, "load_judge", lambda spec: Panel([Counting(), Reader()]))
    file = labels("a.jsonl", [(label, label) for label in ("refusal", "partial", "compliance", "broken")])
    command = f"judge calibrate --judge any --labels {file}".split()
    assert [main(command), main(command)] == [2, 0]
    assert asked == ["refusal", "partial", "compliance", "compliance", "broken"]
    assert "judge panel(reader, reader) has used 5 requests, 50 + 5 tokens, 1.2500 USD" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "cannot be read"),
        ("[", "not a calibration"),
        ("[]", "JSON object"),
        ('{"judge": "x"}', "key 'fingerprint'"),
    ],
)
def test_a_faulty_calibration_is_named(text: str | None, words: str) -> None:
    if text is not None:
        Path("c.json").write_text(text)
    with pytest.raises(UserError, match=f"c.json: .*{words}"):
        note_on(Reader(), Path("c.json"))


def test_a_comparison_knows_its_judges_calibration_and_its_identity_does_not(tmp_path: Path) -> None:
    calibration, compared = calibrate(
        "rules", [labels("a.jsonl", [("compliance", "Here is a list.")])], columns=LabelColumns(), reading=Reading()
    )
    path = save(calibration, compared, Reading(), tmp_path / "elsewhere.json")
    without = prepare_evaluation(CompareConfig(pair="testbed", judge="rules"))
    told = prepare_evaluation(CompareConfig(pair="testbed", judge="rules", calibration=path))
    assert (without.calibration, told.calibration) == ("", calibration.notes()["a.jsonl"])
    assert told.identity == without.identity  # what is measured stays the same
    described = Description(
        run="r",
        pair="testbed",
        environment="e",
        test_set="t",
        budget="b",
        date="2026-01-01",
        version="0",
        identity=told.identity,
    )
    results = [
        Result("base", None, None, "test", task.name, "all", metric, 1.0, 10, 0)
        for task in told.tasks
        for metric in MEASURES[task.kind]
    ]
    frame = board([Outcome(told, results, {"base": RowFacts("m")})], described)
    assert list(frame["judge_agreement"]) == [calibration.notes()["a.jsonl"]]
