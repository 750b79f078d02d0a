"""What another judge changes of a leaderboard, in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sails_eval.boards.contrasts import Contrast, Design, compare
from sails_eval.boards.leaderboard import Tested
from sails_eval.boards.page import to_markdown
from sails_eval.boards.table import METRICS
from sails_eval.core.escape import escape
from sails_eval.core.tables import fitted, markdown

if TYPE_CHECKING:
    import pandas as pd

SHOWN = ("alignment_score", "refusal_rate", "helpfulness")


@dataclass(frozen=True)
class Rejudged:
    """A leaderboard by another judge: its place in the run, its pairs, both judges (the run's own first), the board,
    what it tests, and both judges' scores by row."""

    place: str
    pair: str
    judges: tuple[str, str]
    frame: pd.DataFrame
    quick: bool
    design: Design
    rows: tuple[Mapping[str, Tested], ...]

    def values(self, metric: str) -> list[tuple[str, float, float]]:
        """Every row's value by the run's judge and by the other, best first by the run's."""
        own, other = self.rows
        found = [(method, own[method].interval(metric).value, other[method].interval(metric).value) for method in own]
        return sorted(found, key=lambda one: -math.inf if math.isnan(one[1]) else one[1], reverse=True)

    @property
    def agreement(self) -> tuple[float, float]:
        """Kendall's τ-b and Spearman's rank correlation of the alignment scores; NaN where there are no two scores."""
        from scipy import stats

        scores = [(a, b) for _, a, b in self.values("alignment_score") if not (math.isnan(a) or math.isnan(b))]
        own, other = ([round(pair[side], 6) for pair in scores] for side in (0, 1))
        if len(set(own)) < 2 or len(set(other)) < 2:
            return math.nan, math.nan
        return float(stats.kendalltau(own, other).statistic), float(stats.spearmanr(own, other).statistic)

    @property
    def comparisons(self) -> list[Change]:
        """What becomes of every comparison that the board declares."""
        return [self._change(one) for one in self.design.contrasts]

    def _change(self, contrast: Contrast) -> Change:
        differences, significant = [], []
        for rows in self.rows:
            of = {name: rows[name].interval(contrast.endpoint).value for name in rows}
            differences.append(round(of[contrast.a] - max(of[b] for b in contrast.rivals or (contrast.b,)), 6))
            found = compare(lambda method, metric, at=rows: at[method].sample(metric), self.design.contrasts)  # type: ignore[misc]
            significant.append(next((one.distinguished for one in found if one.contrast == contrast), None))
        return Change(contrast, (differences[0], differences[1]), (significant[0], significant[1]))


@dataclass(frozen=True)
class Change:
    """A comparison by both judges: its differences, and whether they are significant (None: untested)."""

    contrast: Contrast
    differences: tuple[float, float]
    significant: tuple[bool | None, bool | None]

    @property
    def flipped(self) -> bool:
        """Whether the judges disagree on which row is better."""
        own, other = self.differences
        return own * other < 0

    @property
    def told(self) -> str:
        """What changes, in words; `same` where nothing does."""
        own, other = self.significant
        said = ["sign flipped"] if self.flipped else []
        said += ["now distinguished"] if other and own is False else []
        said += ["no longer distinguished"] if own and other is False else []
        return ", ".join(said) or "same"

    @property
    def name(self) -> str:
        one = self.contrast
        return f"{one.a} - {'all others' if one.rivals else one.b}, {METRICS[one.endpoint].title}"


def told(board: Rejudged) -> str:
    """What the other judge changes, for a terminal."""
    where = f"{board.place}: " if board.place != "." else ""
    lines = [f"{where}judged by {board.judges[0]}, and anew by {board.judges[1]}", *fitted(_rows(board))]
    lines += [_ranks(board), *(fitted(_compared(board)) if board.design.contrasts else [])]
    return "\n".join(lines)


def page(board: Rejudged) -> str:
    """The other judge's leaderboard as a page, and below it what it changes."""
    own, other = map(escape, board.judges)
    heading, *rows = _rows(board)
    text = to_markdown(
        board.frame, title=f"Leaderboard of {board.pair}, judged anew by {board.judges[1]}", quick=board.quick
    )
    text += f"\n## What the judge changes\n\nThe same answers, judged by {own} (the run's own judge) and by {other}. "
    text += (
        f"Learning rates are those that the run chose by {own}. {_ranks(board)}.\n\n{markdown(heading, _escaped(rows))}"
    )
    if board.design.contrasts:
        heading, *rows = _compared(board)
        text += f"\n{markdown(heading, _escaped(rows))}"
    return text


def _escaped(rows: list[list[str]]) -> list[list[str]]:
    return [[escape(cell) for cell in row] for row in rows]


def _rows(board: Rejudged) -> list[list[str]]:
    """A table of both judges' values, and of the shares that they left unscored."""
    heading = ["row", *(METRICS[metric].title for metric in SHOWN), "unscored"]
    values = {metric: {method: pair for method, *pair in board.values(metric)} for metric in SHOWN}
    table = [heading]
    for method, *_ in board.values("alignment_score"):
        unscored = [100 * rows[method].unscored() for rows in board.rows]
        cells = [" → ".join(_shown(value) for value in values[metric][method]) for metric in SHOWN]
        table.append([method, *cells, f"{unscored[0]:.1f} → {unscored[1]:.1f} %"])
    return table


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:z.3f}"


def _ranks(board: Rejudged) -> str:
    tau, rho = board.agreement
    if math.isnan(tau):
        return "No rank correlation: no two rows have different alignment scores"
    return f"Kendall's τ of the alignment scores {tau:.2f}, Spearman's rank correlation {rho:.2f}"


def _compared(board: Rejudged) -> list[list[str]]:
    """A table of the declared comparisons."""
    table = [["comparison", "difference", "change"]]
    for one in board.comparisons:
        shown = ["–" if math.isnan(value) else f"{value:+z.3f}" for value in one.differences]
        table.append([one.name, " → ".join(shown), one.told])
    return table
