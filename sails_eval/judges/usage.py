"""What asking a judge costs: requests, tokens and money."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sails_eval.records import write_text


@dataclass(frozen=True)
class Usage:
    """Requests sent, failed ones with them, and the tokens that the endpoint says it counted.

    `cost_usd` is that of these tokens; None where no prices are known.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = None

    def __add__(self, other: Usage) -> Usage:
        costs = [cost for cost in (self.cost_usd, other.cost_usd) if cost is not None]
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            sum(costs) if costs else None,
        )

    def __str__(self) -> str:
        cost = "" if self.cost_usd is None else f", {self.cost_usd:.4f} USD"
        return f"{self.requests} requests, {self.prompt_tokens} + {self.completion_tokens} tokens{cost}"


@runtime_checkable
class Metered(Protocol):
    """A judge that counts what it uses."""

    def take_usage(self) -> Usage:
        """What was used since the last call."""


USAGE = "judge_usage.json"
"""What the judges of a run have used, in its folder; it goes on counting when the run is gone on with."""


def used(judge: object) -> Usage | None:
    """What a judge has used since it was last asked; None for one that asks for nothing, or is free."""
    usage = judge.take_usage() if isinstance(judge, Metered) else Usage()
    return usage if usage.requests else None


def read_usage(path: Path) -> dict[str, Usage]:
    """What a run has used so far, by the judge's name; empty where there is no such file yet."""
    if not path.exists():
        return {}
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {name: Usage(**row) for name, row in rows.items()}


def add_usage(path: Path, judge: str, usage: Usage) -> Usage:
    """Add to what a run's file says of a judge; the new total."""
    rows = read_usage(path)
    rows[judge] = rows.get(judge, Usage()) + usage
    write_text(path, json.dumps({name: asdict(row) for name, row in rows.items()}, indent=1, sort_keys=True) + "\n")
    return rows[judge]
