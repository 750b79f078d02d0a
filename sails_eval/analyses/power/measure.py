"""How many organisms, seeds and prompts it takes to detect a difference between two methods."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import special, stats

from sails_eval.analyses.finished_run import read_tested
from sails_eval.boards.contrasts import ALPHA, HEADLINE, Contrast, check_contrasts, default_contrasts
from sails_eval.boards.leaderboard import Tested, parts_of
from sails_eval.boards.table import METRICS, MIN_SEEDS
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.stats import MIN_ORGANISMS, Interval, Mean, Sample
from sails_eval.core.tables import Table
from sails_eval.plan.budget import Size
from sails_eval.plan.identity import Identity
from sails_eval.run.folder.run_folder import RunFolder

SEEDS = (5, 6, 8, 10, 15, 20, 30)
"""The numbers of seeds that the table shows."""

ORGANISMS, SEEDS_OF_EACH = (5, 8, 12, 16, 24), (1, 2, 3, 6, 10)
"""The numbers of organisms and of seeds of each that the table of organisms shows."""

MOST = 1000
"""Of seeds or organisms, beyond which none are counted."""

ASSUMED = """\
Assumed: a paired t test over {unit}, two-sided, at 5 % over {comparisons} declared comparison{s} (the smallest
Holm threshold, {alpha:.3g}); differences normal over {unit}; {more}
"""

OVER_SEEDS = """\
learning rates fixed; answers independent, so that prompts
explain at most the standard deviation given above, and only that part shrinks with more prompts."""

OVER_ORGANISMS = """\
every organism with seeds of its own, and
the same number of prompts."""


@dataclass(frozen=True)
class Spread:
    """How much the difference of two methods varies, as standard deviations: over seeds, and over organisms.

    `organisms` is what organisms differ in besides their seeds' luck (the interaction of organism and method), None
    where only one was looked at. `prompts` is the part of `sd` that comes from the finite number of prompts. `df` says
    on how many degrees of freedom `sd` was measured, 0 if it was given.
    """

    sd: float
    prompts: float = 0.0
    what: str = "given"
    df: int = 0
    organisms: float | None = None
    metric: str = HEADLINE

    def with_prompts(self, factor: float) -> float:
        """The standard deviation over seeds with `factor` times as many prompts."""
        return math.sqrt(max(0.0, self.sd**2 - self.prompts**2) + min(self.prompts, self.sd) ** 2 / factor)

    def detectable(self, organisms: int, seeds: int, *, power_wanted: float, alpha: float = ALPHA) -> float:
        """The difference that this many organisms with seeds of their own show with that power."""
        error = math.sqrt(((self.organisms or 0.0) ** 2 + self.sd**2 / seeds) / organisms)
        return Mean(0.0, error, organisms - 1).detectable(alpha=alpha, power=power_wanted)

    def organisms_needed(
        self, difference: float, seeds: int, *, power_wanted: float, alpha: float = ALPHA
    ) -> int | None:
        """The fewest organisms, at least MIN_ORGANISMS, that show a difference; None beyond MOST."""
        numbers = range(MIN_ORGANISMS, MOST + 1)  # what is detectable shrinks with them
        place = bisect_left(
            numbers, -difference, key=lambda n: -self.detectable(n, seeds, power_wanted=power_wanted, alpha=alpha)
        )
        return numbers[place] if place < len(numbers) else None


def power(difference: float, sd: float, *, seeds: int, alpha: float = ALPHA) -> float:
    """The probability that a paired t test over `seeds` differences of mean `difference` rejects 0.

    `sd` is the standard deviation of the differences. The normal tails beyond the test's limits, averaged over the
    distribution of the estimated standard deviation: SciPy's noncentral t has no value (NaN) for many arguments.
    """
    df, shift = seeds - 1, abs(difference) / sd * math.sqrt(seeds)
    limit = special.stdtrit(df, 1 - alpha / 2)
    # of the logarithm of estimated to true deviation, on which everything is smooth and ends in nothing
    logs, step = np.linspace(-30, math.log(special.chdtri(df, 1e-15) / df) / 2, 4001, retstep=True)
    scale = math.log(2) + df / 2 * math.log(df / 2) - special.gammaln(df / 2)
    density = np.exp(df * logs - df / 2 * np.exp(2 * logs) + scale)
    edge = limit * np.exp(logs)
    beyond = special.ndtr(shift - edge) + special.ndtr(-shift - edge)
    return min(1.0, float(np.trapezoid(density * beyond, dx=float(step))))


def seeds_needed(difference: float, sd: float, *, power_wanted: float, alpha: float = ALPHA) -> int | None:
    """The fewest seeds, at least MIN_SEEDS, that reach the power; None beyond MOST."""
    numbers = range(MIN_SEEDS, MOST + 1)  # power grows with them
    place = bisect_left(numbers, power_wanted, key=lambda seeds: power(difference, sd, seeds=seeds, alpha=alpha))
    return numbers[place] if place < len(numbers) else None


# --- what a run says --------------------------------------------------------------------------------------------------


def spread_in(
    run: Path, pair: Sequence[str] | None = None, metric: str | None = None, include: Sequence[Path] = ()
) -> tuple[Spread, int]:
    """The spread of a comparison in a run (the first declared by default), and the number of comparisons it has.

    Without `metric` it is that in which the comparison was declared. Of several budgets the largest counts. Raises
    UserError where the run has no such comparison over two seeds or more, or its tasks cannot be found.
    """
    folder = RunFolder(run)
    described = folder.description() if folder.exists else None  # results alone will do
    if described and described.quick:
        raise UserError(f"{run}: made with --quick, a smoke test; take the spread from a run without it")
    identity, organisms = (described.identity if described else Identity()), [folder]
    if identity.parts:
        largest = max(map(Size.of, identity.parts))
        parts = sorted(part for part in identity.parts if Size.of(part) == largest)
        identity, organisms = identity.parts[parts[0]], [RunFolder(run / part) for part in parts]
    declared = [Contrast.of(told) for told in identity.contrasts or ()]
    wanted = [one for one in declared if not one.of_best and (pair is None or {one.a, one.b} == {*pair})]
    endpoint = metric or (wanted[0].endpoint if wanted else HEADLINE)
    if endpoint not in METRICS:
        raise unknown("metric", endpoint, METRICS)
    rows = read_tested(*organisms, include=include, metrics=parts_of(endpoint))
    methods = [Path(name).stem for name in ((described and described.config) or {}).get("methods", ())]
    methods = [*(name for name in methods if name in rows), *sorted(rows.keys() - set(methods))]
    declared = declared or list(default_contrasts(methods))
    a, b = pair or next(((one.a, one.b) for one in (*wanted, *declared) if not one.of_best), ("", ""))
    check_contrasts([Contrast(a, b, endpoint)], rows)
    sample = rows[a].sample(endpoint).minus(rows[b].sample(endpoint))
    if len(sample.seeds) < 2 or not sample.complete:
        raise UserError(
            f"{run}: '{a}' against '{b}' has no {METRICS[endpoint].title} of two seeds or more; give a run that has"
        )
    prompts = math.hypot(*(_prompt_error(row, endpoint) for row in (rows[a], rows[b]) if row.trained))
    sd, between = components(sample)
    df = len(sample.values) * (len(sample.seeds) - 1)
    return Spread(sd, prompts, f"{a} - {b} in {run}", df, between, endpoint), len(declared)


def spread_of(sd: float, prompts: float | None, organisms: float | None, metric: str | None) -> Spread:
    """The spread that a user gives. Raises UserError for an unknown metric."""
    metric = metric or HEADLINE
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    return Spread(sd, prompts or 0.0, organisms=organisms, metric=metric)


def components(sample: Sample) -> tuple[float, float | None]:
    """The standard deviations of a sample's values: over the seeds of one organism, and between organisms besides.

    By the analysis of variance: the means of S seeds differ by MS_within / S where organisms don't differ at all; where
    they share their seeds, by the mean square of what neither explains. None of one organism.
    """
    table = np.asarray(sample.values)
    organisms, seeds = table.shape
    within = float(table.var(axis=1, ddof=1).mean())
    if organisms == 1:
        return math.sqrt(within), None
    by_chance = within
    if not sample.nested:
        rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
        by_chance = float((rest**2).sum()) / (organisms - 1) / (seeds - 1)
    between = float(table.mean(axis=1).var(ddof=1)) - by_chance / seeds
    return math.sqrt(within), math.sqrt(max(0.0, between))


def _prompt_error(row: Tested, metric: str) -> float:
    """The standard deviation that a cell's value has from its prompts, if its answers are independent.

    Of scores it is at most that: answers vary no more than those that are the worst or the best would.
    """
    parts = []
    for weight, results in row.by_task(metric):
        for result in results:
            low, span = METRICS[result.metric].low, METRICS[result.metric].high - METRICS[result.metric].low
            share = (result.value - low) / span
            parts.append((weight * span) ** 2 * share * (1 - share) / result.n)
    return math.sqrt(math.fsum(parts) / sum(map(len, row.cells)))


# --- what it takes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What it takes to detect a difference, with what that follows from and what it assumes."""

    heading: str
    table: Table
    assumed: str


def report(spread: Spread, *, difference: float, power_wanted: float, comparisons: int) -> Report:
    """What it takes to detect a difference. Raises UserError for figures out of their range."""
    span = METRICS[spread.metric].high - METRICS[spread.metric].low
    if spread.sd == 0 and spread.df:
        raise UserError(
            f"{spread.what}: all seeds have the same value, so there is no spread to plan with; give --sd X"
        )
    for name, value, most in (("difference", difference, span), ("sd", spread.sd, span), ("power", power_wanted, 1.0)):
        if not 0 < value < most:
            raise UserError(f"--{name} {value:g}: give a value above 0 and below {most:g}")
    if power_wanted <= ALPHA:
        raise UserError(f"--power {power_wanted:g}: give more than {ALPHA:g}, the power if there is no difference")
    if comparisons < 1 or not (0 <= spread.prompts < math.inf and 0 <= (spread.organisms or 0) < span):
        raise UserError(
            f"give --n-comparisons of 1 or more, --prompt-sd and --organism-sd of 0 or more and below {span:g}"
        )
    if not spread.df and spread.prompts > spread.sd:
        raise UserError(f"--prompt-sd {spread.prompts:g}: it is a part of --sd, so give at most {spread.sd:g}")
    alpha = ALPHA / comparisons
    of_seeds = spread.organisms is None
    table = (_over_seeds if of_seeds else _over_organisms)(spread, difference, power_wanted, alpha)
    unit, more = ("seeds", OVER_SEEDS) if of_seeds else ("organisms", OVER_ORGANISMS)
    s = "" if comparisons == 1 else "s"
    about = ASSUMED.format(unit=unit, comparisons=comparisons, s=s, alpha=alpha, more=more)
    return Report(_heading(spread, difference), table, about)


def _over_seeds(spread: Spread, difference: float, power_wanted: float, alpha: float) -> Table:
    """The power by seeds and prompts, and the seeds that are needed."""
    lines = [["prompts", *(f"{seeds} seeds" for seeds in SEEDS), f"seeds for {power_wanted:.0%}"]]
    records = []
    for factor in (1, 2, 4) if spread.prompts else (1,):
        sd = spread.with_prompts(factor)
        if sd == 0:
            raise UserError(
                "all variance is attributed to the prompts, so seeds cannot be planned; give a smaller --prompt-sd, or "
                "a run with more seeds"
            )
        needed = seeds_needed(difference, sd, power_wanted=power_wanted, alpha=alpha)
        powers = [power(difference, sd, seeds=seeds, alpha=alpha) for seeds in SEEDS]
        lines.append([f"× {factor}", *(f"{one:.0%}" for one in powers), str(needed or f"over {MOST}")])
        for seeds, one in zip(SEEDS, powers, strict=True):
            records.append({"prompts_times": factor, "seeds": seeds, "power": one, "seeds_needed": needed})
    return Table(lines, records, "r")


def _over_organisms(spread: Spread, difference: float, power_wanted: float, alpha: float) -> Table:
    """The detectable difference by organisms and seeds, and the organisms that are needed."""
    lines = [[f"detected with {power_wanted:.0%}", *(f"{n} seed{'s' * (n > 1)} each" for n in SEEDS_OF_EACH)]]
    needed = [spread.organisms_needed(difference, n, power_wanted=power_wanted, alpha=alpha) for n in SEEDS_OF_EACH]
    records = []
    for organisms in ORGANISMS:
        seen = [spread.detectable(organisms, n, power_wanted=power_wanted, alpha=alpha) for n in SEEDS_OF_EACH]
        most = METRICS[spread.metric].high - METRICS[spread.metric].low
        lines.append([f"{organisms} organisms", *(f"{one:.3f}" if one <= most else f"over {most:g}" for one in seen)])
        for n, one, least in zip(SEEDS_OF_EACH, seen, needed, strict=True):
            told = {"organisms": organisms, "seeds_each": n, "detectable": one, "organisms_needed": least}
            records.append(told)
    lines.append([f"organisms for {difference:g}", *(str(n or f"over {MOST}") for n in needed)])
    return Table(lines, records, "r")


def _heading(spread: Spread, difference: float) -> str:
    shown = f"{spread.sd:.3f}"
    if spread.df:
        low, high = (spread.sd * math.sqrt(spread.df / stats.chi2.ppf(level, spread.df)) for level in (0.975, 0.025))
        on = f"from {spread.df + 1} seeds" if spread.organisms is None else f"on {spread.df} degrees of freedom"
        shown = f"{Interval(spread.sd, low, high).shown('.3f')} {on}"
    text = (
        f"To detect a difference of {difference:g} in {METRICS[spread.metric].title}.\nStandard deviation over seeds: "
    )
    text += f"{shown} ({spread.what}), of which prompts {min(spread.prompts, spread.sd):.3f}"
    return f"{text}." if spread.organisms is None else f"{text}; between organisms: {spread.organisms:.3f}."
