"""The folder of a run: made once, recognised again, and never mixed with another comparison."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from sails_eval import __version__
from sails_eval.config import CompareConfig
from sails_eval.errors import UserError
from sails_eval.fingerprint import digest
from sails_eval.plan import QUICK, Setup
from sails_eval.records import write_text

DESCRIPTION = "run.json"


def check_folder(folder: Path, setup: Setup) -> None:
    """Raises UserError if the folder holds another comparison (naming what differs) or something else."""
    known = folder / DESCRIPTION  # written last when a run begins: config.yaml alone is a run killed at its start
    if known.exists():
        described = json.loads(known.read_text(encoding="utf-8"))
        if differences := _differences(described["identity"], setup.identity):
            raise UserError(
                f"{folder}: holds another comparison, which differs in {', '.join(differences)}; "
                "give another --out, or none"
            )
    elif folder.is_dir() and any(path.name != "config.yaml" and path.name[0] != "." for path in folder.iterdir()):
        raise UserError(f"{folder}: not empty, and not a run folder; give another --out")


@contextmanager
def open_run(folder: Path, config: CompareConfig, setup: Setup) -> Iterator[dict[str, Any]]:
    """Make the run folder, or go on with it; yields its run.json. One process at a time may work in it.

    Raises UserError as `check_folder` does, or if another process is at work there.
    """
    check_folder(folder, setup)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another sails-eval is at work there") from error
        known = folder / DESCRIPTION
        if not known.exists():
            write_text(folder / "config.yaml", _as_yaml(config))
            write_text(known, json.dumps(describe(setup), indent=1, sort_keys=True) + "\n")
        described: dict[str, Any] = json.loads(known.read_text(encoding="utf-8"))
        yield described


def describe(setup: Setup) -> dict[str, Any]:
    """What a run is, for whoever publishes or resumes it."""
    return {
        "run": setup.fingerprint,
        "pair": setup.pair.name,
        "environment": digest(setup.identity["environment"]),
        "test_set": digest([setup.identity["tasks"], setup.limit]),
        "budget": f"{setup.pair.tokens} tokens, {setup.learning_rates} rates, {setup.seeds} seeds",
        "date": date.today().isoformat(),
        "version": __version__,
        "identity": setup.identity,
    }


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys whose values differ, nested ones with their parents."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        one, other = old.get(key), new.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _differences(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key}")
    return found


def _as_yaml(config: CompareConfig) -> str:
    """The configuration as `--config` takes it again."""
    settled = set(QUICK) if config.quick else set()
    return yaml.safe_dump(config.model_dump(mode="json", exclude_none=True, exclude=settled), sort_keys=False)
