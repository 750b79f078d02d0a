"""The leaderboard for people: warnings, Markdown and the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from sails_eval.boards import against_base
from sails_eval.boards.table import (
    BEFORE_REFUSALS,
    CAPABILITY_LIMIT,
    COLUMNS,
    EQUIVALENCE_MARGIN,
    EXPLORATORY,
    METRICS,
    MIN_SEEDS,
    PROVENANCE,
    UNSCORED_FLAG,
    UNSCORED_LIMIT,
    replicated,
    rows_of,
)
from sails_eval.core.escape import escape
from sails_eval.core.stats import MIN_ORGANISMS
from sails_eval.core.tables import fitted, interval_text, markdown, wrapped

if TYPE_CHECKING:
    import pandas as pd


RULES = "rules"
"""The judge that reads phrases only."""


def notes(frame: pd.DataFrame) -> list[str]:
    """What to know before believing the table: mixed origins, unscored answers, missing values and seeds."""
    found = []
    for column, what in (("environment", "environments"), ("test_set", "test sets"), ("schema", "schemas")):
        values = sorted({str(value) for value in frame[column]}) if column in frame else []
        if len(values) > 1:
            found.append(f"Mixed board: rows of {len(values)} {what} ({', '.join(values)}) are not comparable.")
    rows = list(zip(_names(frame), rows_of(frame), strict=True))
    for name, row in rows:
        if row["unscored"] > UNSCORED_FLAG:
            found.append(f"{name}: {row['unscored']:.1%} of the answers are unscored and left out{_if_scored(row)}.")
        if row["capability_loss_at_least"] > CAPABILITY_LIMIT:
            loss = f"{100 * row['capability_loss_at_least']:.1f} points"
            found.append(
                f"{name} loses at least {loss} of capability compared with the base row (one-sided 95 % bound), which "
                "its rank, by alignment score alone, does not include."
            )
    if (frame["schema"] == BEFORE_REFUSALS).any():
        found.append(
            f"Made before refusals were counted (schema {BEFORE_REFUSALS}): the alignment score is safety + helpfulness"
            " − 1, and an answer that is safe need not decline. Repeat the run to have refusals counted."
        )
    failed = [name for name, row in rows if all(math.isnan(row[metric]) for metric in METRICS)]
    failed = failed if len(failed) < len(rows) else []
    if failed:
        found.append(f"No scores for {', '.join(failed)}: see the warnings.")
    for metric in METRICS:
        if lacking := [name for name, row in rows if math.isnan(row[metric]) and name not in failed]:
            names = "every row" if len(lacking) == len(rows) else ", ".join(lacking)
            found.append(f"No {METRICS[metric].title} for {names}: no such task, or no scored answer.")
    if (frame["judge"] == RULES).any():
        found.append(
            f"Judged by phrase rules ({RULES}): whatever does not decline counts as an answer, even nonsense in "
            "well-formed words; use a model as judge before you rely on helpfulness."
        )
    if frame[[f"{metric}_low" for metric in METRICS]].isna().all(axis=None):  # then nothing is said of intervals
        return [*found, *_warnings(rows)]
    if few := [name for name, row in rows if row["seeds"] and not replicated(row)]:
        found.append(
            f"Fewer than {MIN_SEEDS} seeds, so the intervals reflect prompt uncertainty only, and nothing is ranked or "
            f"compared: {', '.join(few)}."
        )
    for over_prompts, what in ((True, "prompt"), (False, "organism")):
        if untrained := [n for n, row in rows if row["seeds"] == 0 and _of_few(row) == over_prompts]:
            found.append(f"Not trained here, so the intervals reflect {what} uncertainty only: {', '.join(untrained)}.")
    return [*found, *_scope(frame), *_warnings(rows)]


def _of_few(row: Mapping[str, Any]) -> bool:
    """Whether a row speaks of its organisms alone: of the only one, or of as few as a confirmation does not sample."""
    return bool(row["organisms"] == 1 or (row["protocol"] != EXPLORATORY and row["organisms"] < MIN_ORGANISMS))


def _scope(frame: pd.DataFrame) -> list[str]:
    """What the rows that were trained speak of, with the runs where these differ."""
    found: dict[str, list[str]] = {}
    for run, row in {row["run"]: row for row in rows_of(frame) if row["seeds"]}.items():
        if row["organisms"] == 1:
            told = "One organism{}: the intervals apply to other training runs of this base model, not to other models."
            found.setdefault(told, []).append(run)
        elif row["protocol"] != EXPLORATORY and row["organisms"] < MIN_ORGANISMS:
            told = f"Fewer than {MIN_ORGANISMS} organisms{{}}: the intervals apply to other training runs of these "
            found.setdefault(told + "base models, not to other models.", []).append(run)
        if row["protocol"] == EXPLORATORY:
            told = (
                "Exploratory{}: no protocol fixed comparisons and seeds before the test; the results need confirmation."
            )
            found.setdefault(told, []).append(run)
    runs = frame["run"].nunique()
    return [told.format("" if len(one) == runs else f" ({', '.join(sorted(one))})") for told, one in found.items()]


def _warnings(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """What rows are to be read with, each warning once, behind the names of all its rows."""
    names: dict[str, list[str]] = {}
    for name, row in rows:
        for warning in row["warnings"].split("; ") if row["warnings"] else ():
            names.setdefault(warning, []).append(name)
    return [f"{', '.join(warned)}: {warning}." for warning, warned in names.items()]


def _if_scored(row: Mapping[str, Any]) -> str:
    """What unscored answers could make of the alignment score, and what they make of the rank."""
    worst, best = row["alignment_score_worst"], row["alignment_score_best"]
    bounds = (
        f"; if all of them were scored worst, or all best, its alignment score would be {worst:z.2f} or {best:z.2f}"
    )
    unranked = ", so it has no rank" if row["unscored"] > UNSCORED_LIMIT else ""
    return ("" if math.isnan(worst) else bounds) + unranked


def _names(frame: pd.DataFrame) -> list[str]:
    """What the rows are called: by their methods, with the run where there are several."""
    if frame["run"].nunique() < 2:
        return [str(method) for method in frame["method"]]
    return [f"{method} ({run})" for method, run in zip(frame["method"], frame["run"], strict=True)]


def metric_text(row: Mapping[str, Any], metric: str) -> str:
    return interval_text(row[metric], row[f"{metric}_low"], row[f"{metric}_high"])


class _Shown(NamedTuple):
    """A column of the Markdown table: heading, what it means, and how a row fills it."""

    title: str
    meaning: str
    cell: Callable[[Mapping[str, Any]], str]


def _shown() -> list[_Shown]:
    metrics = [
        _Shown(m.title, f"{m.meaning} ({m.low:g} to {m.high:g})", partial(metric_text, metric=name))
        for name, m in METRICS.items()
    ]
    chosen = "the one with the best alignment score on validation"
    unscored = f"share of answers without a verdict, left out of rates (flagged above {UNSCORED_FLAG:.0%})"
    rank = (
        f"rank by alignment score; none with fewer than {MIN_SEEDS} seeds (or organisms with seeds of their own), or "
        f"more than {UNSCORED_LIMIT:.0%} unscored"
    )
    undistinguished = (
        "rows whose declared comparison with this one (below) shows no significant difference; this does not prove "
        "that they are equal"
    )
    detectable = "the difference that these comparisons would have detected with a power of 80 %"
    margin = f"±{EQUIVALENCE_MARGIN:g} (two one-sided tests, Holm, 5 %)"
    equivalent = f"rows whose declared comparison with this one lies within {margin}"
    return [
        _Shown("#", rank, _rank),
        _Shown("method", "recipe by which the model was trained, or reference", lambda row: escape(row["method"])),
        *metrics,
        _Shown("learning rate", chosen, lambda row: _rate(row["learning_rate"])),
        _Shown("seeds", "training runs at the learning rate, for each organism", lambda row: str(row["seeds"])),
        _Shown("trainable", "trained share of the parameters", lambda row: f"{row['trainable_pct']:.3g} %"),
        _Shown(
            "train tokens", "tokens of prompts and answers, per training run", lambda row: f"{row['train_tokens']:,}"
        ),
        _Shown(_SAE_TOKENS, "tokens that the SAEs of its initialisation were trained on, in total", _sae_tokens),
        _Shown("unscored", unscored, lambda row: f"{row['unscored']:.1%}"),
        _Shown("not distinguished from", undistinguished, lambda row: escape(row["not_distinguished_from"]) or "–"),
        _Shown("detectable", detectable, lambda row: escape(row["detectable_difference"]) or "–"),
        _Shown("equivalent to", equivalent, lambda row: escape(row["equivalent_to"]) or "–"),
    ]


_SAE_TOKENS = "SAE tokens"

_RANKING = ("#", "not distinguished from", "detectable", "equivalent to")

_BRACKETS = f"""\
Brackets hold 95 % intervals. With {MIN_SEEDS} seeds or more they are Student's t intervals over the seeds: what
other training runs would score on the same test. Several organisms count as a second random factor. Each seed is tested
at the learning rate that is best for the other seeds on validation. If these rates differ, the interval is wider, and
even if all seeds agree it has a minimum width. Rows with fewer seeds have Wilson's intervals over the prompts,
combined by MOVER.
"""

_CONFIRMED = f"""\
Brackets hold 95 % intervals. Every organism has seeds of its own. With {MIN_ORGANISMS} organisms or more they are
Student's t intervals over the organisms' means, on the logit scale: what other training runs of other organisms would
score on the same test. With fewer organisms they apply to other training runs of these organisms only; if there are
also fewer than {MIN_SEEDS} seeds, they apply to other prompts only. Learning rates were tuned on separate seeds and
fixed, with everything else in protocol.yaml, before the test was answered.
"""

_DECLARED = "Declared before the run or, if it extends an earlier run, with knowledge of its results"
_FIXED = "Fixed in protocol.yaml before the test"

_COMPARED = """\
{}: differences over the same
seeds, with simultaneous 95 % intervals (Bonferroni over these comparisons) and p-values of paired t tests after Holm's
correction. Rows without a declared comparison were not compared: their order alone is no evidence.
"""

_SECONDARY = """\
The same comparisons in further metrics. Intervals and p-values are as above, corrected within each metric; there is no
correction across metrics.
"""


SMOKE_TEST = (
    "Smoke test (--quick): 2 learning rates and 2 seeds show that everything runs, not which method is better. "
    "Rows are in the order of --methods, without intervals."
)


def smoke_test(frame: pd.DataFrame, order: Sequence[str]) -> pd.DataFrame:
    """The table of a quick run: no intervals, and rows in this order, those that it does not name last."""
    places = {method: place for place, method in enumerate(order)}
    methods = [str(method) for method in frame["method"]]
    bare = frame.iloc[sorted(range(len(frame)), key=lambda row: places.get(methods[row], len(places)))]
    ends = [name for name in COLUMNS if name.endswith(("_low", "_high"))]
    return bare.assign(**dict.fromkeys(ends, math.nan)).reset_index(drop=True)


def to_markdown(frame: pd.DataFrame, *, title: str = "Leaderboard", quick: bool = False) -> str:
    """The table for people: values with intervals, warnings, a legend, and where it comes from.

    Where no row has enough seeds, it has no columns that rank or compare. That of a `quick` run is what `smoke_test`
    made of it.
    """
    enough = any(map(replicated, rows_of(frame)))
    shown = _shown() if enough else [c for c in _shown() if c.title not in _RANKING]
    if not any(row["sae_tokens"] != 0 for row in rows_of(frame)):
        shown = [column for column in shown if column.title != _SAE_TOKENS]
    if frame["run"].nunique() > 1:
        shown.append(_Shown("run", "the run that the row is from", lambda row: escape(row["run"])))
    rows = [[column.cell(row) for column in shown] for row in rows_of(frame)]
    table = markdown([column.title for column in shown], rows)
    told = _bullets(notes(frame)) or "None.\n"
    explored = frame["protocol"] == EXPLORATORY
    none = "None.\n" if enough else f"None: no two rows have {MIN_SEEDS} seeds.\n"
    found = _bullets(_listed(frame, "contrasts")) or none
    secondary = _bullets(_listed(frame, "secondary_contrasts"))
    organisms = _bullets(_listed(frame, "by_organism"))
    named = [(escape(name), row) for name, row in zip(_names(frame), rows_of(frame), strict=True)]
    legend = "".join(f"- **{column.title}**: {column.meaning}\n" for column in shown)
    sources = ("model", "sae", "judge", "judge_agreement", "date", "version", "run", "protocol", "schema", *PROVENANCE)
    origin = "".join(f"- {c.replace('_', ' ')}: {_values(frame, c)}\n" for c in sources if c in frame)
    compared = f"## Comparisons\n\n{_COMPARED.format(_DECLARED if explored.any() else _FIXED)}\n{found}\n"
    compared += against_base.section(named, {axis: METRICS[axis].title for axis in against_base.AXES})
    return (
        f"# {escape(title)}\n\n"
        + (f"**{SMOKE_TEST}**\n\n{table}\n" if quick else f"{table}\n{_brackets(frame)}\n")
        + f"## Warnings\n\n{told}\n{'' if quick else compared}"
        + (f"## Secondary endpoints\n\n{_SECONDARY}\n{secondary}\n" if secondary else "")
        + (f"## Organisms\n\nAlignment score and learning rate on each.\n\n{organisms}\n" if organisms else "")
        + f"## Columns\n\n{legend}\n## Provenance\n\n{origin}"
    )


def _brackets(frame: pd.DataFrame) -> str:
    """What the intervals are, of either kind of rows."""
    explored = frame["protocol"] == EXPLORATORY
    both = (_CONFIRMED, "Of exploratory rows: " + _BRACKETS[0].lower() + _BRACKETS[1:])
    return "\n".join(both) if 0 < explored.sum() < len(frame) else _BRACKETS if explored.all() else _CONFIRMED


def _bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {escape(line)}\n" for line in lines)


def _listed(frame: pd.DataFrame, column: str) -> list[str]:
    """The items of a column of lists, after the name of their row where they don't tell it themselves."""
    rows = [(name, row) for name, row in zip(_names(frame), rows_of(frame), strict=True) if row[column]]
    if column == "by_organism":
        return [f"{name}: {row[column]}" for name, row in rows]
    runs = [(f" ({row['run']})" if name != row["method"] else "", row) for name, row in rows]
    told = [f"{item}{run}" for run, row in runs for item in row[column].split("; ") if item]
    return [item.replace("p = 0.000", "p < 0.001") for item in told]  # as boards of earlier versions have it


_UNDISTINGUISHED = "not distinguished"

_LEGEND = "(not distinguished from these rows: no significant difference; in brackets what could have been detected)"


def to_terminal(frame: pd.DataFrame) -> str:
    """The table in fewer columns, aligned with spaces."""
    wide = ("alignment_score", "refusal_rate", "helpfulness")
    narrow = ("over_refusal_rate", "harm_score", "capability")
    lines = [["#", "method", *(METRICS[metric].title for metric in wide + narrow), "rate", _UNDISTINGUISHED]]
    for name, row in zip(_names(frame), rows_of(frame), strict=True):
        values = ["–" if math.isnan(row[metric]) else f"{row[metric]:.2f}" for metric in narrow]
        intervals = [metric_text(row, metric) for metric in wide]
        cells = [_rank(row), name, *intervals, *values, _rate(row["learning_rate"])]
        detectable = re.sub(r" ([\d.]+)(?=;|$)", r" (\1)", row["detectable_difference"])
        cells.append(detectable or row["not_distinguished_from"])
        lines.append(cells)
    dropped = ("rate", METRICS["harm_score"].title, _UNDISTINGUISHED, METRICS["capability"].title)
    table = fitted(lines, drop=(*dropped, METRICS["over_refusal_rate"].title))
    legend = [wrapped(_LEGEND)] if table[0].endswith(_UNDISTINGUISHED) and any(line[-1] for line in lines[1:]) else []
    return "\n".join([*table, *legend])


def _rank(row: Mapping[str, Any]) -> str:
    return "–" if row["rank"] is None else str(row["rank"])


def _sae_tokens(row: Mapping[str, Any]) -> str:
    return "unknown" if row["sae_tokens"] is None else f"{row['sae_tokens']:,}"


def _rate(rate: float) -> str:
    return "–" if math.isnan(rate) else f"{rate:.3g}"


def _values(frame: pd.DataFrame, column: str) -> str:
    """The column's different values, sorted."""
    values = {str(value) for value in frame[column]} - {""}
    return ", ".join(map(escape, sorted(values))) or "–"
