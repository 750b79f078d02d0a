"""The `judge` commands of the command line: score, calibrate, train, audit."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sails_eval.cli.common import add_command, add_group, add_include_path
from sails_eval.cli.flags import flag, listed
from sails_eval.core.errors import UserError
from sails_eval.core.escape import one_line
from sails_eval.core.files import check_file
from sails_eval.core.tables import fitted
from sails_eval.judges.spec import trusting

if TYPE_CHECKING:
    from sails_eval.judges.calibration import Calibration, Figures

FILES = "JSONL, JSON, CSV, each also as .gz, or Parquet"
SHOWN = 5
"""How many disagreements are printed."""


def add(commands: Any) -> None:
    actions = add_group(
        commands, "judge", "Judge a file of answers, calibrate or train a judge, or audit a run's verdicts."
    )
    _add_score(actions)
    _add_calibrate(actions)
    _add_train(actions)
    _add_audit(actions)


def _add_score(actions: Any) -> None:
    text = "Judge the answers in a file, and write a line with id, prompt, response, score, label, unscored for each."
    score = add_command(actions, "score", _score, text)
    text = (
        f"files of answers ({FILES}) with prompt and response, samples of lm_eval (--log_samples) or logs of Inspect "
    )
    text += "(.json, .eval); a pattern in quotes means all files that match"
    score.add_argument("files", nargs="+", metavar="FILE", help=text)
    _add_judge(score)
    text = (
        "JSONL file to write; if it exists (same judge), only new and unscored answers are judged. For several files "
    )
    text += "or a pattern, a folder, in which each has a file of its name"
    score.add_argument("--out", type=Path, required=True, metavar="PATH", help=text)
    text = (
        "kind of the requests: harmful ones should be refused and are scored from 1 to 5, safe ones should be answered "
    )
    text += "(default: harmful)"
    score.add_argument("--kind", choices=("harmful", "safe"), default="harmful", help=text)
    flag(score, "--send-to", "HOST", action="append")
    _add_columns(score)


def _add_judge(command: argparse.ArgumentParser) -> None:
    text = "judge: rules, hf:MODEL, openai:MODEL?key=value, zoo:NAME or others, a panel J,J,J or a cascade cascade:J,J "
    text += "(see: sails-eval docs judges)"
    command.add_argument("--judge", required=True, metavar="JUDGE", help=text)
    text = "allow zoo judges to run code from their model repositories (default: refused)"
    command.add_argument("--trust-remote-code", action="store_true", help=text)


def _judge(options: argparse.Namespace) -> str:
    return trusting(options.judge) if options.trust_remote_code else str(options.judge)


def _add_columns(command: argparse.ArgumentParser) -> None:
    columns = command.add_argument_group("columns")
    text = "column of requests; one inside another in JSON as in doc.goal (default: prompt)"
    columns.add_argument("--prompt-column", default="prompt", metavar="COL", help=text)
    columns.add_argument("--response-column", metavar="COL", help="column of answers (default: response)")
    text = "column of identifiers (default: id; without it rows are numbered from 1)"
    columns.add_argument("--id-column", metavar="COL", help=text)


def _score(options: argparse.Namespace) -> None:
    from sails_eval.judges.answer_files import AnswerColumns, read_answers, score_files, sources_of
    from sails_eval.tasks.sharing import check_sending, named_in

    files = sources_of(options.files, options.out)
    columns = AnswerColumns(options.prompt_column, options.response_column or "response", options.id_column)
    ids = (str(answer.id) for source in files for answer in read_answers(source, columns))
    check_sending(named_in(ids), options.judge, options.send_to or ())
    silent = []
    for source, judged in score_files(
        files, judge=_judge(options), kind=options.kind, columns=columns, quiet=options.quiet
    ):
        print(f"{source}: {judged}" if len(files) > 1 else judged)
        silent += [] if judged.labels else [files[source]]
    print(f"written to {options.out}")
    if silent:
        raise UserError(f"{silent[0]}: no answer has a verdict; once the judge works, give the same command again")


def _add_calibrate(actions: Any) -> None:
    text = "Measure how well a judge agrees with human labels; boards then report it for runs with this judge."
    calibrate = add_command(actions, "calibrate", _calibrate, text)
    _add_judge(calibrate)
    text = (
        f"files of answers with human labels ({FILES}): refusal, deflection, partial, compliance or broken, XSTest's "
    )
    text += "labels, or grades from 1 to 5; several files get a row each, and a row for all together"
    calibrate.add_argument("--labels", type=Path, required=True, nargs="+", action="extend", metavar="FILE", help=text)
    text = "rubric to judge by (default: harmful if the labels are grades; else safe, which classifies refusals)"
    calibrate.add_argument("--kind", choices=("harmful", "safe"), help=text)
    text = "class as which a partial refusal counts in the binary figures (default: refusal)"
    calibrate.add_argument("--partial", choices=("refusal", "compliance"), default="refusal", help=text)
    text = "names of labels in the files that differ from those above, as in declined=refusal,bad=5 (default: none)"
    calibrate.add_argument("--map", type=listed, default="", metavar="NAME=LABEL,…", help=text)
    text = "file to write (default: ./calibrations/JUDGE-HASH.json, where boards look for it)"
    calibrate.add_argument("--out", type=Path, metavar="FILE.json", help=text)
    _add_columns(calibrate)
    columns = calibrate.add_argument_group("columns of labels")
    columns.add_argument(
        "--label-column", metavar="COL", help="column of labels (default: label, or XSTest's final_label)"
    )
    text = "columns with the labels of two annotators, to report their agreement (default: XSTest's, if present)"
    columns.add_argument("--annotators", type=listed, metavar="COL,COL", help=text)


def _calibrate(options: argparse.Namespace) -> None:
    from sails_eval.judges.calibration import FOLDER, LabelColumns, Reading, calibrate, disagreements, save
    from sails_eval.judges.usage import told

    if options.out:
        check_file(options.out)
    reading = Reading(_names(options.map), options.partial, options.kind)
    people = tuple(options.annotators.split(",")) if options.annotators else None
    columns = LabelColumns(
        options.prompt_column, options.response_column, options.label_column, options.id_column, people
    )
    calibration, compared = calibrate(
        _judge(options),
        options.labels,
        columns=columns,
        reading=reading,
        workspace=options.out.parent if options.out else FOLDER,
        quiet=options.quiet,
    )
    several = len(calibration.files) > 1
    for figures in (*calibration.files, *([calibration.pooled] if several else ())):
        print(_told(figures, calibration))
    if several:
        print(_table(calibration))
    found = disagreements(calibration, compared, reading)
    path = save(calibration, compared, reading, options.out)
    sides = sum(one["sides"] == "different" for one in found)
    what = "whether it is harmful" if calibration.graded else "whether it refuses"
    counted = f"{len(found)} disagreement{'s' * (len(found) != 1)}" + (
        f" ({sides} on {what}, which the figures above count)" if found else ""
    )
    print(f"{counted}, in {path.with_suffix('.disagreements.jsonl')}" + (":" if found else ""))
    for one in found[:SHOWN]:
        request = one_line(str(one["prompt"]))[:60]
        print(f"  {one['file']} {one['id']}: people {one['people']}, judge {one['judge']}: {request}")
    for line in told(calibration.usage):
        print(line)
    print(f"written to {path}")


def _add_train(actions: Any) -> None:
    from sails_eval.judges.learned.settings import CONFIDENCE, LAYER

    text = "Train a judge on answers with human labels; it is used as --judge learned:DIR."
    train = add_command(actions, "train", _train, text)
    text = f"files of answers with human labels ({FILES}), as for 'judge calibrate', but no grades; best of several "
    text += "models"
    train.add_argument("--labels", type=Path, required=True, nargs="+", action="extend", metavar="FILE", help=text)
    text = "further labelled files that are learnt from and never tested on, such as those with a judge's labels "
    extra: dict[str, Any] = {"type": Path, "nargs": "+", "action": "extend", "default": [], "metavar": "FILE"}
    train.add_argument("--extra-labels", **extra, help=f"{text}(default: none)")
    train.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write the judge into")
    text = "what the judge sees of an answer: ngrams of its opening, or hf:MODEL, hidden states of a local model "
    train.add_argument("--features", default="ngrams", metavar="ngrams|hf:MODEL", help=f"{text}(default: ngrams)")
    text = f"layer after which hidden states are read; with hf:MODEL only (default: {LAYER})"
    train.add_argument("--layer", type=_positive, metavar="N", help=text)
    text = f"probability from 0.5 to 1 below which the judge says that it is unsure (default: {CONFIDENCE})"
    train.add_argument("--confidence", type=float, default=CONFIDENCE, metavar="P", help=text)
    text = "names of labels in the files that differ from those of 'judge calibrate', as in declined=refusal "
    text += "(default: none)"
    train.add_argument("--map", type=listed, default="", metavar="NAME=LABEL,…", help=text)
    train.add_argument(
        "--note", default="", metavar="TEXT", help="text for the judge's card, such as the data's licence"
    )
    _add_columns(train)
    columns = train.add_argument_group("columns of labels")
    text = "column of labels (default: label, or XSTest's final_label)"
    columns.add_argument("--label-column", metavar="COL", help=text)
    text = "column with the model that gave the answer (default: model, else each file is one model's)"
    columns.add_argument("--model-column", metavar="COL", help=text)
    text = "column with the kind of the request (default: type or category, if there is one)"
    columns.add_argument("--type-column", metavar="COL", help=text)


def _train(options: argparse.Namespace) -> None:
    from sails_eval.judges.calibration import LabelColumns
    from sails_eval.judges.learned.card import CARD, COLUMNS, row_of, tables_of, write_card
    from sails_eval.judges.learned.samples import read_samples
    from sails_eval.judges.learned.settings import check_out, features_of
    from sails_eval.judges.learned.training import train

    check_out(options.out)
    if not 0.5 <= options.confidence <= 1:
        raise UserError(f"--confidence {options.confidence:g}: a probability from 0.5 to 1 is expected")
    features = features_of(options.features, options.layer)
    columns = LabelColumns(options.prompt_column, options.response_column, options.label_column, options.id_column, ())
    names, told = _names(options.map), {"model": options.model_column, "topic": options.type_column}
    samples = read_samples(options.labels, columns, names, **told)
    samples += read_samples(options.extra_labels, columns, names, **told, extra=True)
    features.check()
    trained = train(samples, features, confidence=options.confidence)
    trained.classifier.save(options.out)
    write_card(options.out, trained, options.labels, options.extra_labels, options.note)
    for title, rows in tables_of(trained).items():
        print("\n".join([f"{title}:", *fitted([COLUMNS, *map(row_of, rows)], "lr"), ""]))
    print(f"{trained.samples:,} answers; written to {options.out}, with the card {options.out / CARD}")
    print(f"to use it: --judge learned:{options.out}")


def _names(text: str) -> dict[str, Any]:
    """`--map` as names of labels. Raises UserError for what is not NAME=LABEL."""
    from sails_eval.judges.calibration import NAMES

    found = {}
    for part in filter(None, text.split(",")):
        name, _, label = (piece.strip() for piece in part.partition("="))
        if not name or label not in NAMES:
            raise UserError(f"--map {part}: expected NAME=LABEL, where LABEL is one of {', '.join(NAMES)}")
        found[name] = NAMES[label]
    return found


def _told(figures: Figures, calibration: Calibration) -> str:
    from sails_eval.judges.agreement import text_of

    positive, negative = ("harmful", "safe") if calibration.graded else ("refusals", "the rest")
    lines = [
        f"{figures.name}: {figures.answers} answers, {figures.unscored} unscored and left out",
        *(f"  {count} × {reason}" for reason, count in figures.reasons.items()),
        f"kappa {text_of(figures.kappa)}",
        f"accuracy {text_of(figures.accuracy)}",
        f"true-positive rate {text_of(figures.found)} ({positive})",
        f"true-negative rate {text_of(figures.spared)} ({negative})",
    ]
    if figures.weighted:
        lines.append(f"weighted kappa {text_of(figures.weighted)} (grades 1 to 5, quadratic weights)")
    if figures.annotators:
        lines.append(f"kappa between two annotators {text_of(figures.annotators)}")
    corner = "people \\ judge"
    rows = [[corner, *figures.confusion], *([one, *map(str, row.values())] for one, row in figures.confusion.items())]
    return "\n".join([*lines, *fitted(rows), ""])


def _table(calibration: Calibration) -> str:
    from sails_eval.judges.agreement import text_of

    rows = [["file", "answers", "unscored", "kappa", "accuracy", "true positives", "true negatives", "two people"]]
    for one in (*calibration.files, calibration.pooled):
        figures = (one.kappa, one.accuracy, one.found, one.spared, one.annotators)
        rows.append([one.name, str(one.answers), str(one.unscored), *(text_of(figure) for figure in figures)])
    return "\n".join([*fitted(rows), ""])


def _add_audit(actions: Any) -> None:
    text = "Export a blinded sample of a run's answers for human labels, and correct the run's rates by them."
    steps = add_group(actions, "audit", text, "step")
    text = "Write a blinded sample of a run's test answers for people to label, stratified by method and score."
    export = add_command(steps, "export", _export, text)
    export.add_argument("run_dir", type=Path, metavar="RUN", help="run folder")
    text = "answers per stratum: method and the judge's score or label (default: 20, or all if there are fewer)"
    export.add_argument("--per-stratum", type=_positive, default=20, metavar="N", help=text)
    export.add_argument("--seed", type=int, default=0, metavar="S", help="random seed of the sample (default: 0)")
    text = (
        "file for the annotators, written with FILE.instructions.md; do not show them FILE.key.json, written beside it"
    )
    export.add_argument("--out", type=Path, required=True, metavar="FILE.csv", help=text)
    text = "Import the human labels, and correct the run's rates by them; writes audit.csv and audit.md into RUN."
    back = add_command(steps, "import", _import, text)
    back.add_argument("run_dir", type=Path, metavar="RUN", help="run folder")
    back.add_argument("file", type=Path, metavar="FILE", help="sample with the column 'label' filled in")
    text = "key written by 'audit export' (default: the one beside FILE)"
    back.add_argument("--key", type=Path, metavar="FILE.key.json", help=text)
    for step in (export, back):
        add_include_path(step)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number above 0")
    return int(text)


def _export(options: argparse.Namespace) -> None:
    from sails_eval.analyses.audit.sample import export, key_path

    check_file(options.out)
    key = export(
        options.run_dir, options.out, per_stratum=options.per_stratum, seed=options.seed, include=options.include_path
    )
    strata = len({(one.method, one.stratum) for one in key.drawn})
    print(f"{len(key.drawn)} answers from {strata} strata written to {options.out}")
    instructions = options.out.with_suffix(".instructions.md")
    print(f"give it to the annotators with {instructions}; keep {key_path(options.out)} to yourself")


def _import(options: argparse.Namespace) -> None:
    from sails_eval.analyses.audit.correct import import_labels, table

    rows = import_labels(options.run_dir, options.file, key=options.key, include=options.include_path)
    print("\n".join(fitted(table(rows))))
    print("corrected for the judge's errors on these answers only; the unit of replication is still the seed")
    print(f"written to {options.run_dir / 'audit.csv'} and {options.run_dir / 'audit.md'}")
