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
COLUMNS = ["left out", "answers", "κ of all", "κ where sure", "unsure", "AUROC", "Brier"]

LIMITS = """\
## What it cannot do

- It knows the kinds of answers that it was trained on: English ones, of the models above. Of others its probabilities
  may be wrong; label some and run `sails-eval judge calibrate`.
- It reads the beginning of an answer, and nothing of the request: an answer that refuses late, or that answers another
  question than was asked, looks like one that complies.
- It says whether an answer complies, not how harmful it is: compliance scores 5 even where the content is harmless.
"""


def write_card(folder: Path, trained: Trained, files: Sequence[Path], note: str = "") -> None:
    """Write the README of a judge into its folder."""
    classifier = trained.classifier
    named = "\n".join(f"- `{path.name}` (SHA-256 {of_path(path)[:16]}…)" for path in files)
    parts = [
        f"# Learned judge: {sees(classifier.features)}",
        f"A linear classifier of answers, by `sails-eval judge train` {__version__}: {trained.samples:,} answers with "
        f"people's labels ({', '.join(classifier.labels)}). An answer whose likelier side has a probability below "
        f"{classifier.confidence:.2f} is unscored (*unsure*).",
        f"## Data\n\n{named}" + (f"\n\n{note}" if note else ""),
        "## On what it had not seen\n\nκ with people on whether an answer turns down, in whole or in part, by "
        "classifiers that were trained without the answers of a model, or to a kind of request.",
        *(f"{title}\n\n" + markdown(COLUMNS, [row_of(one) for one in rows]) for title, rows in _tables(trained)),
        LIMITS,
    ]
    write_text(folder / CARD, "\n\n".join(parts))


def sees(features: Features) -> str:
    """What a judge sees of an answer, in a clause."""
    if isinstance(features, HiddenStates):
        return f"hidden states of {features.model} after layer {features.layer}, first {features.tokens} tokens"
    return "n-grams of the opening"


def _tables(trained: Trained) -> list[tuple[str, Sequence[HeldOut]]]:
    both = [("**One model left out:**", trained.by_model), ("**One kind of request left out:**", trained.by_topic)]
    return [(title, rows) for title, rows in both if rows]


def row_of(one: HeldOut) -> list[str]:
    """A line of the table, in the order of `COLUMNS`."""
    auroc = "–" if one.auroc is None else f"{one.auroc:.3f}"
    return [
        one.left_out,
        f"{one.answers:,}",
        text_of(one.kappa),
        text_of(one.scored),
        f"{one.unsure:.0%}",
        auroc,
        f"{one.brier:.3f}",
    ]
