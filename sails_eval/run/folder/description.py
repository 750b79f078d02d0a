"""The folder of a run: made once, recognised again, and never mixed with another comparison."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import write_json, write_text
from sails_eval.core.fingerprint import digest
from sails_eval.core.version import __version__
from sails_eval.models.engines import HF
from sails_eval.plan.parts import Part, max_examples, run_identity
from sails_eval.plan.setup import QUICK, Setup
from sails_eval.run.folder.layout import DESCRIPTION, read_description

BEGUN = ("config.yaml", "pace.json")
"""What a run that was killed at its start may have left without its description."""


def check_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Raises UserError if the folder holds another comparison (naming what differs) or something else."""
    known = folder / DESCRIPTION  # written last when a run begins
    if known.exists():
        if found := differences(read_description(folder)["identity"], identity):
            raise UserError(
                f"{folder}: holds another comparison, which differs in {', '.join(found)}; give another --out, or none"
            )
    elif folder.is_dir() and any(path.name not in BEGUN and path.name[0] != "." for path in folder.iterdir()):
        raise UserError(f"{folder}: not empty, and not a run folder; give another --out")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other process is at work in the folder inside the block. Raises UserError where one is."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another sails-eval is at work there") from error
        yield


@contextmanager
def open_run(folder: Path, config: CompareConfig, description: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Make the run folder, or go on with it; yields its run.json. One process at a time may work in it.

    `description` is what `describe` says of the run; a run that is gone on with keeps the one it has. Raises
    UserError as `check_folder` does, or if another process is at work there.
    """
    check_folder(folder, description["identity"])
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):
        known = folder / DESCRIPTION
        if not known.exists():
            asked = _asked(config)
            write_text(folder / "config.yaml", yaml.safe_dump(asked, sort_keys=False))
            write_json(known, description | {"config": asked}, sort_keys=True)
        yield read_description(folder)


def describe(setup: Setup) -> dict[str, Any]:
    """What a run is, for whoever publishes, resumes or extends it. Another engine makes another environment."""
    environment, engine = setup.identity["environment"], setup.identity.get("engine")
    return {
        "run": setup.fingerprint,
        "pair": setup.pair.name,
        "environment": digest(environment if setup.engine == HF else [environment, engine]),
        "test_set": digest([setup.identity["tasks"], setup.limit]),
        "budget": f"{setup.pair.tokens} tokens, {setup.learning_rates} rates, {setup.seeds} seeds"
        + (f", {setup.checkpoints} checkpoints" if setup.checkpoints > 1 else "")
        + (f", {setup.match} matched" if setup.match != "tokens" else "")
        + (", parameters matched" if setup.match_params else "")
        + (f", {setup.pair.regularise}" if setup.pair.regularise else ""),
        "date": date.today().isoformat(),
        "version": __version__,
        "identity": setup.identity,
    }


def describe_parts(parts: Sequence[Part]) -> dict[str, Any]:
    """What a run of these parts is; of several it says what its leaderboard says: all pairs at the largest budget."""
    shown = [part for part in parts if part.examples == max_examples(parts)]
    described = [describe(part.setup) for part in shown]
    if len(parts) == 1:
        return described[0]
    budgets = list(dict.fromkeys(one["budget"] for one in described))
    if examples := max_examples(parts):
        budgets.append(f"{examples} examples")
    identity = run_identity(parts)
    return described[0] | {
        "run": digest(identity),
        "pair": ", ".join(one["pair"] for one in described),
        "budget": ", ".join(budgets),
        "identity": identity,
    }


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys whose values differ, nested ones with their parents."""
    if ("parts" in old) != ("parts" in new):
        return ["its pairs or budgets"]
    found = []
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key}")
    return found


def _asked(config: CompareConfig) -> dict[str, Any]:
    """The configuration as `--config` takes it again."""
    settled = set(QUICK) if config.quick else set()
    return config.model_dump(mode="json", exclude_none=True, exclude=settled)
