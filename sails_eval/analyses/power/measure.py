"""How many seeds and prompts it takes to see a difference between two methods."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy import stats

from sails_eval.analyses.finished_run import read_tested
from sails_eval.boards.contrasts import ALPHA, check_contrasts, default_contrasts
from sails_eval.boards.leaderboard import Tested
from sails_eval.boards.table import MIN_SEEDS
from sails_eval.core.errors import UserError
from sails_eval.core.stats import Interval
from sails_eval.core.tables import aligned
from sails_eval.run.folder.run_folder import RunFolder

SEEDS = (5, 6, 8, 10, 15, 20, 30)
"""The numbers of seeds that the table shows."""

MOST_SEEDS = 1000

ASSUMPTIONS = """\
Assumed: a paired t test over seeds, two-sided, at 5 % over {contrasts} declared contrast{s} (Holm's hardest step,
{alpha:.3g}); differences normal over seeds; both learning rates settled; answers independent, so that prompts explain
at most the part of the spread given above, which is what shrinks with more of them.
"""


@dataclass(frozen=True)
class Spread:
    """How much the difference of two methods' alignment scores varies over seeds: a standard deviation.

    `prompts` is the part of it that comes from the finite number of prompts. `seeds` is how many it was measured on,
    0 if it was given.
    """

    sd: float
    prompts: float = 0.0
    what: str = "given"
    seeds: int = 0

    def with_prompts(self, factor: float) -> float:
        """The standard deviation with `factor` times as many prompts."""
        return math.sqrt(max(0.0, self.sd**2 - self.prompts**2) + min(self.prompts, self.sd) ** 2 / factor)


def power(difference: float, sd: float, *, seeds: int, alpha: float = ALPHA) -> float:
    """The probability that a paired t test over `seeds` differences of mean `difference` rejects 0.

    From the noncentral t distribution; `sd` is the standard deviation of the differences.
    """
    df, shift = seeds - 1, difference / sd * math.sqrt(seeds)
    limit = stats.t.isf(alpha / 2, df)
    return float(stats.nct.sf(limit, df, shift) + stats.nct.cdf(-limit, df, shift))


def seeds_needed(difference: float, sd: float, *, power_wanted: float, alpha: float = ALPHA) -> int | None:
    """The fewest seeds, at least MIN_SEEDS, that reach the power; None beyond MOST_SEEDS."""
    numbers = range(MIN_SEEDS, MOST_SEEDS + 1)  # power grows with them
    place = bisect_left(numbers, power_wanted, key=lambda seeds: power(difference, sd, seeds=seeds, alpha=alpha))
    return numbers[place] if place < len(numbers) else None


def spread_in(run: Path, pair: Sequence[str] | None = None, include: Sequence[Path] = ()) -> tuple[Spread, int]:
    """The spread of a contrast in a run (the first declared by default), and the number of contrasts it has.

    Raises UserError where the run has no such contrast over two seeds or more, or its tasks cannot be found.
    """
    folder = RunFolder(run)
    described = folder.description() if folder.exists else None  # results alone will do
    if described and described.identity.parts:
        parts = ", ".join(sorted(described.identity.parts))
        raise UserError(f"{run}: a run of several parts; name one of its folders ({parts})")
    rows = read_tested(folder, include)
    methods = [Path(name).stem for name in ((described and described.config) or {}).get("methods", ())]
    declared = tuple((a, b) for a, b in (described and described.identity.contrasts) or ()) or default_contrasts(
        [*(name for name in methods if name in rows), *sorted(rows.keys() - set(methods))]
    )
    a, b = pair or (declared or (("", ""),))[0]
    check_contrasts([(a, b)], rows)
    sample = rows[a].sample("alignment_score").minus(rows[b].sample("alignment_score"))
    if len(sample.seeds) < 2 or not sample.complete:
        raise UserError(f"{run}: '{a}' against '{b}' does not have alignment scores of two seeds or more")
    prompts = math.hypot(*(_prompt_error(row) for row in (rows[a], rows[b]) if row.trained))
    spread = Spread(float(stats.tstd(sample.values[0])), prompts, f"{a} - {b} in {run}", len(sample.seeds))
    return spread, len(declared)


def _prompt_error(row: Tested) -> float:
    """The standard deviation that a cell's alignment score has from its prompts, if its answers are independent."""
    parts = [
        weight**2 * result.value * (1 - result.value) / result.n
        for weight, results in row.by_task("alignment_score")
        for result in results
    ]
    return math.sqrt(math.fsum(parts) / sum(map(len, row.cells)))


def report(spread: Spread, *, difference: float, power_wanted: float, contrasts: int) -> str:
    """A table of the power by seeds and prompts, with the seeds that are needed, and what it assumes.

    Raises UserError for figures out of their range.
    """
    for name, value, most in (("difference", difference, 2.0), ("sd", spread.sd, 2.0), ("power", power_wanted, 1.0)):
        if not 0 < value < most:
            raise UserError(f"--{name} {value:g}: has to be above 0 and below {most:g}")
    if contrasts < 1 or spread.prompts < 0:
        raise UserError("--contrasts has to be 1 or more, and --prompt-sd 0 or more")
    alpha = ALPHA / contrasts
    lines = [["prompts", *(f"{seeds} seeds" for seeds in SEEDS), f"seeds for {power_wanted:.0%}"]]
    for factor in (1, 2, 4) if spread.prompts else (1,):
        sd = spread.with_prompts(factor)
        if sd == 0:
            raise UserError(
                "all of the spread is that of the prompts: give a smaller --prompt-sd, or a run of more seeds"
            )
        needed = seeds_needed(difference, sd, power_wanted=power_wanted, alpha=alpha)
        powers = [f"{power(difference, sd, seeds=seeds, alpha=alpha):.0%}" for seeds in SEEDS]
        lines.append([f"× {factor}", *powers, str(needed or f"over {MOST_SEEDS}")])
    table = "\n".join(aligned(lines, "r"))
    about = ASSUMPTIONS.format(contrasts=contrasts, s="" if contrasts == 1 else "s", alpha=alpha)
    return f"{_heading(spread, difference)}\n\n{table}\n\n{about}"


def _heading(spread: Spread, difference: float) -> str:
    shown = f"{spread.sd:.3f}"
    if spread.seeds:
        df = spread.seeds - 1
        low, high = (spread.sd * math.sqrt(df / stats.chi2.ppf(level, df)) for level in (0.975, 0.025))
        shown = f"{Interval(spread.sd, low, high).shown('.3f')} from {spread.seeds} seeds"
    text = f"To see a difference of {difference:g} in alignment score.\nStandard deviation over seeds: {shown}"
    return f"{text} ({spread.what}), of which prompts {min(spread.prompts, spread.sd):.3f}."
