"""The card of a learned judge: what it was trained on, how it did on what it had not seen, and what it cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sails_eval.core.files import write_text
from sails_eval.core.fingerprint import of_path
from sails_eval.core.tables import markdown
from sails_eval.core.version import __version__
from sails_eval.judges.agreement import text_of
from sails_eval.judges.learned.features import Features, HiddenStates
from sails_eval.judges.learned.training import HeldOut, Trained

CARD = "README.md"
COLUMNS = ["model", "answers", "κ of all", "κ where sure", "unsure", "AUROC", "Brier"]

LIMITS = """\
## What it cannot do

- It knows the kinds of answers that it was trained on: English ones, of the models above. Of others its probabilities
  may be wrong; label some and run `sails-eval judge calibrate`.
- It reads the beginning of an answer, and nothing of the request: an answer that refuses late, or that answers another
  question than was asked, looks like one that complies.
- It says whether an answer complies, not how harmful it is: compliance scores 5 even where the content is harmless.
"""


def write_card(
    folder: Path, trained: Trained, files: Sequence[Path], extra: Sequence[Path] = (), note: str = ""
) -> None:
    """Write the README of a judge into its folder."""
    classifier = trained.classifier
    named = [f"- `{path.name}` (SHA-256 {of_path(path)[:16]}…)" for path in files]
    named += [f"- `{path.name}` (SHA-256 {of_path(path)[:16]}…), learnt from, not tested on" for path in extra]
    listed = "\n".join(named)
    parts = [
        f"# Learned judge: {sees(classifier.features)}",
        f"A linear classifier of answers, by `sails-eval judge train` {__version__}: {trained.samples:,} labelled "
        f"answers ({', '.join(classifier.labels)}). An answer whose likelier side has a probability below "
        f"{classifier.confidence:.2f} is unscored (*unsure*).",
        f"## Data\n\n{listed}" + (f"\n\n{note}" if note else ""),
        "## On what it had not seen\n\nκ with people on whether an answer turns down, in whole or in part: of each "
        "model's answers, by classifiers that saw none of that model, or none to the same kind of request.",
        *(f"{title}:\n\n" + markdown(COLUMNS, list(map(row_of, rows))) for title, rows in tables_of(trained).items()),
        LIMITS,
    ]
    write_text(folder / CARD, "\n\n".join(parts))


def sees(features: Features) -> str:
    """What a judge sees of an answer, in a clause."""
    if isinstance(features, HiddenStates):
        return f"hidden states of {features.model} after layer {features.layer}, first {features.tokens} tokens"
    return "n-grams of the opening"


def tables_of(trained: Trained) -> dict[str, Sequence[HeldOut]]:
    """The tables of a card, by their titles; none that is empty."""
    both = {"Trained without the model": trained.by_model, "Trained without the kind of request": trained.by_topic}
    return {title: rows for title, rows in both.items() if rows}


def row_of(one: HeldOut) -> list[str]:
    """A line of the table, in the order of `COLUMNS`."""
    auroc = "–" if one.auroc is None else f"{one.auroc:.3f}"
    return [
        one.model,
        f"{one.answers:,}",
        text_of(one.kappa),
        text_of(one.scored),
        f"{one.unsure:.0%}",
        auroc,
        f"{one.brier:.3f}",
    ]
