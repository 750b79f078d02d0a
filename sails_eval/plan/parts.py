"""A comparison over several organisms or budgets: as many ordinary comparisons, planned and checked together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import digest
from sails_eval.plan.resolve import resolve
from sails_eval.plan.setup import Setup

SHARED = {"tasks": "--tasks", "limit": "--limit", "judge": "--judge"}
"""What all parts have in common, as it is called in their identities, and the flag that sets it for all."""


@dataclass(frozen=True)
class Part:
    """One organism at one budget: a comparison of its own, with everything it needs in a folder of its own.

    `folder` is its place inside the run, '' where it is the whole run. `examples` is its budget of labelled examples
    where there are several, else None.
    """

    folder: str
    examples: int | None
    config: CompareConfig
    setup: Setup

    @property
    def pair(self) -> str:
        return self.setup.pair.name


def resolve_parts(config: CompareConfig) -> tuple[Part, ...]:
    """The parts of a comparison: every pair, and within it every number of examples, ascending.

    Raises UserError for the first thing that cannot work, which includes parts that could not be compared.
    """
    if len(set(config.examples)) < len(config.examples):
        raise UserError(f"--examples: each budget once, not {', '.join(map(str, config.examples))}")
    budgets = sorted(config.examples) if len(config.examples) > 1 else [None]
    parts = []
    for pair in config.pairs or (None,):
        for examples in budgets:
            one = {"pair": pair, "examples": (examples,) if examples else config.examples}
            setup = resolve(part := config.model_copy(update=one))
            folders = [setup.pair.name] * (len(config.pairs) > 1) + [f"examples-{examples}"] * bool(examples)
            parts.append(Part("/".join(folders), examples, part, setup))
    _check_comparable(parts)
    return tuple(parts)


def _check_comparable(parts: Sequence[Part]) -> None:
    """Raises UserError naming the pair that differs from the first in what all have to share."""
    first = parts[0]
    for part in parts[1:]:
        for key, flag in SHARED.items():
            if part.setup.identity[key] != first.setup.identity[key]:
                raise UserError(
                    f"pair '{part.pair}': its {key} is not that of '{first.pair}'; give {flag} for all, or compare "
                    "them in runs of their own"
                )
        for asked in part.config.reference if part.pair != first.pair else ():
            if not all(asked in one.setup.pair.references for one in (first, part)):
                raise UserError(
                    f"--reference {asked}: with several pairs it names a model of each, in their key 'references'; "
                    "one model is not several organisms"
                )
    if len({part.folder for part in parts}) < len(parts):
        raise UserError(f"--pair: two of the pairs have the same name ({', '.join(part.pair for part in parts)})")


def max_examples(parts: Sequence[Part]) -> int | None:
    """The largest budget, whose leaderboard is the run's; None where there are not several."""
    return max((part.examples for part in parts if part.examples), default=None)


def run_identity(parts: Sequence[Part]) -> dict[str, Any]:
    """What a run of these parts is determined by: that of its one part, or those of all, by folder."""
    if len(parts) == 1:
        return parts[0].setup.identity
    return {"parts": {part.folder: part.setup.identity for part in parts}}


def run_folder(parts: Sequence[Part]) -> Path:
    """The default folder of a run."""
    names = "-".join(dict.fromkeys(part.pair for part in parts))
    return Path("runs") / f"{names}-{digest(run_identity(parts))[:8]}"


def placed(run: Path, part: Part) -> Path:
    """The folder of a part."""
    return run / part.folder if part.folder else run


def each_pair(config: CompareConfig) -> list[CompareConfig]:
    """The same for one pair at a time."""
    return [config.model_copy(update={"pair": pair, "examples": ()}) for pair in config.pairs or (None,)]
