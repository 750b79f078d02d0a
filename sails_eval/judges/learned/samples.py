"""Labelled answers as samples to train a judge on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sails_eval.core.errors import UserError
from sails_eval.data.files import Row
from sails_eval.judges.answer_files import value_in
from sails_eval.judges.answer_text import read_answer
from sails_eval.judges.calibration import LabelColumns, Reading, Truth, read_labels
from sails_eval.judges.learned.training import Sample


def read_samples(
    files: Sequence[Path],
    columns: LabelColumns,
    names: Mapping[str, Truth],
    *,
    model: str | None = None,
    topic: str | None = None,
    extra: bool = False,
) -> list[Sample]:
    """The answers of files with people's labels. Without a column of models each file is one model's.

    What judges do not read of an answer is not learnt from, nor answers of which nothing is left. Raises UserError for
    faulty files, as `read_labels` does, and for grades.
    """
    samples = []
    for path in files:
        for row in read_labels(path, columns, Reading(names)):
            if isinstance(row.truth, int):
                raise UserError(
                    f"{path}: the labels are grades; translate them into words with --map, as in 5=compliance"
                )
            if (text := read_answer(row.answer.response)) is None:
                continue
            by, about = row.answer.row, path.name.partition(".")[0]
            told = _value(by, model, ("model",), "--model-column") or about
            kind = _value(by, topic, ("type", "category"), "--type-column")
            samples.append(Sample(text, row.truth, told, kind, extra))
    return samples


def _value(row: Row, column: str | None, usual: Sequence[str], flag: str) -> str:
    """What a row has in a column, or in the first of the usual ones that it has; empty where it has none."""
    if column is not None:
        return str(value_in(row, column, flag))
    return next((str(row.values[name]) for name in usual if name in row.values), "")
