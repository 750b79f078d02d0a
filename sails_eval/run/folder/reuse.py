"""Cells of an earlier run in a new one: those that the same things determine, if their files are as they were."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import read_json, write_json
from sails_eval.core.fingerprint import digest, of_path
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import BASE, Split
from sails_eval.core.schema import validate
from sails_eval.models.engines import HF, resolve_engine
from sails_eval.plan.parts import Part, placed
from sails_eval.plan.setup import Setup
from sails_eval.run.folder import layout
from sails_eval.run.folder.checkpoints import STOPPED
from sails_eval.run.folder.description import differences
from sails_eval.run.folder.layout import DESCRIPTION, read_description
from sails_eval.tasks.library import TaskInfo

SEAL = "cells.json"
"""Written last by a finished run: the hash of every cell's folder, and of what its initialisations started from."""

REUSED = "reused.json"
"""Which cells of a run come from an earlier one, and from which."""

SHARE = "its share of the budget, its recipe or code"

FREE = {"calibration", "add", "against", "contrasts", "jobs", "keep", "out", "reference"}
"""What may be asked for anew where an earlier run is extended; the rest is as it was there."""


def extended(config: CompareConfig) -> CompareConfig:
    """The configuration of the run `against`, with what is to be added; `config` itself where it extends none.

    Raises UserError where the earlier run is none or not finished, or a flag contradicts it.
    """
    if config.against is None and not config.add:
        return config
    if config.against is None or not (config.add or config.reference):
        raise UserError("--add METHOD (or --reference MODEL) and --against RUN belong together")
    old = config.against
    if not (old / DESCRIPTION).is_file():
        raise UserError(f"--against {old}: not a run folder")
    described = read_description(old)
    if "config" not in described:
        raise UserError(f"{old / DESCRIPTION}: of an older sails-eval, without the configuration; make the run anew")
    if digest(described["identity"]) != described["run"]:
        raise UserError(f"{old / DESCRIPTION}: changed since the run; restore it, or make the run anew")
    if config.out is not None and config.out.resolve() == old.resolve():
        raise UserError(f"--out {config.out}: the earlier run itself; give another folder, or none")
    before = validate(CompareConfig, described["config"], where=str(old / DESCRIPTION))
    for key in sorted(config.model_fields_set - FREE):
        asked, was = getattr(config, key), getattr(before, key)
        if asked != was and not (key == "engine" and resolve_engine(asked) == resolve_engine(was)):
            flag = f"--{key.replace('_', '-')}"
            raise UserError(f"{flag} {_text(asked)} contradicts {old}, which has {_text(was)}; leave {flag} out")
    if twice := sorted({Path(name).stem for name in config.add} & {Path(name).stem for name in before.methods}):
        raise UserError(f"--add {twice[0]}: {old} has it already; leave it out")
    anew = {key: getattr(config, key) for key in FREE & config.model_fields_set - {"add", "against"}}
    return before.model_copy(update={"out": None, **anew, "methods": (*before.methods, *config.add)})


def _text(value: Any) -> str:
    """A flag's value as one would type it."""
    if value is None or value == ():
        return "none of its own"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def seal(run: Path, setup: Setup) -> None:
    """Write the hashes by which a later run sees that nothing was changed since."""
    hashes = {name: of_path(run / name) for name in _sealed(setup) if (run / name).exists()}
    write_json(run / SEAL, hashes)


def _sealed(setup: Setup) -> Iterator[str]:
    yield from (f"cells/{name}" for name in (BASE, *(row.name for row in setup.finished)))
    yield from (cell.folder for cell in setup.all_cells())
    for recipe in setup.recipes:
        yield from _subspace(recipe)


def _subspace(recipe: Recipe) -> list[str]:
    """The files that an initialisation starts from; with the last one they are complete."""
    path = layout.subspace_path(Path(), recipe)
    return [str(path.with_suffix(".json")), str(path)] if recipe.init else []


def check_sealed(old: Path, parts: Iterable[Part]) -> None:
    """Raises UserError where a part of the earlier run is not finished: then nothing says what its files should be."""
    for part in parts:
        if not (placed(old, part) / SEAL).is_file():
            raise UserError(f"--against {old}: not finished; give its own command again first")


@dataclass(frozen=True)
class Earlier:
    """A finished run, and which of its files mean the same in the run that `setup` describes."""

    folder: Path
    identity: dict[str, Any]
    hashes: dict[str, str]
    setup: Setup

    @property
    def foreign(self) -> list[str]:
        """What makes everything in it another thing: another version of this package or of its libraries."""
        keys = ("environment", "version")
        before, now = ({key: one[key] for key in keys} for one in (self.identity, self.setup.identity))
        return differences(before, now)

    def same_recipe(self, recipe: Recipe) -> bool:
        """Whether its cells of the recipe are trained on the same model, data, tokens and settings."""
        ours = self.setup.identity["recipes"]
        return not self.foreign and bool(self.identity["recipes"].get(recipe.name) == ours[recipe.name])

    def intact(self, name: str) -> bool:
        """Whether a cell's folder or a file is there as the run left it: nothing added, lost or changed."""
        path = self.folder / name
        return name in self.hashes and path.exists() and of_path(path) == self.hashes[name]

    def usable(self, folder: str) -> list[Path]:
        """The files of a cell that hold for the new run, train.json last; none where it would be trained anyhow.

        Answers hold where task and engine are the same, verdicts where the judge is, too. What was kept of several
        checkpoints holds only with all of these.
        """
        cell, checkpoint = self.folder / folder, self.folder / folder / layout.CHECKPOINT
        files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
        answered = True
        splits: dict[Split, tuple[TaskInfo, ...]] = {
            "validation": self.setup.validation_tasks,
            "test": self.setup.tasks,
        }
        for split, tasks in splits.items():
            files += self.answers(folder, split, tasks)
            if split == "validation":
                answered = all(layout.completions_path(cell, split, task) in files for task in tasks)
        trained = cell / "train.json"
        if trained.exists():
            files.append(trained)
        if (cell / STOPPED).exists():
            judged = all(self.identity[key] == self.setup.identity[key] for key in ("judge", "tasks"))
            steps = [path for path in cell.glob("step-*/**/*") if path.is_file()]
            return [*steps, cell / STOPPED, *files] if answered and judged else []
        return files if answered or checkpoint.exists() else []

    def answers(self, folder: str, split: Split, tasks: Sequence[TaskInfo]) -> list[Path]:
        """The answers to tasks of a split that hold for the new run, with the verdicts that do."""
        before, now, files = self.identity, self.setup.identity, []
        told = before["limit"], before.get("engine", {"name": HF})
        for task in tasks:
            answers = layout.completions_path(self.folder / folder, split, task)
            same = before["tasks"].get(task.name) == now["tasks"][task.name]
            if same and told == (now["limit"], now["engine"]) and answers.exists():
                verdicts = layout.verdicts_path(self.folder / folder, split, task, judge=now["judge"])
                files += [answers, *([verdicts] if before["judge"] == now["judge"] and verdicts.exists() else [])]
        return files


@dataclass(frozen=True)
class Reuse:
    """How many of a run's cells come from an earlier run, and why others that it has do not."""

    reused: int
    cells: int
    refused: list[str]


def adopt(old: Path, run: Path, setup: Setup, *, quiet: bool, title: str = "") -> Reuse:
    """Link what an earlier run has of the cells of `setup` into `run`, once each is verified.

    A cell that was trained here or is here already stays as it is. A kill leaves cells without train.json, which the
    next call links anew. Where the file system cannot link, files are copied.
    """
    described = read_description(old)
    hashes = read_json(old / SEAL)
    earlier, refused = Earlier(old, described["identity"], hashes, setup), []
    if earlier.foreign:
        refused.append(f"{old}: another {', '.join(earlier.foreign)}, so none of its cells is reused")
    elif earlier.identity["model"] == setup.identity["model"] and not (run / "cells" / BASE).exists():
        _link(old, run, earlier.usable(f"cells/{BASE}") if earlier.intact(f"cells/{BASE}") else [])
    _adopt_finished(earlier, run)
    for recipe in setup.recipes:
        if earlier.same_recipe(recipe) and all(map(earlier.intact, names := _subspace(recipe))):
            _link(old, run, [old / name for name in names if not (run / names[-1]).exists()])
        elif recipe.name in earlier.identity["recipes"] and not (earlier.foreign or earlier.same_recipe(recipe)):
            what = differences(earlier.identity["training"], setup.identity["training"]) or [
                SHARE if setup.tokens else "its recipe or code"
            ]
            refused.append(f"{recipe.name}: trained anew, since {', '.join(what)} differs from {old}")
    reused = [name for name in _reused(run) if (run / name / "train.json").exists()]
    cells = [cell.folder for cell in setup.all_cells() if earlier.same_recipe(cell.recipe)]
    fresh = [folder for folder in cells if not (run / folder / "train.json").exists()]
    files: dict[str, list[Path]] = {}
    for folder in tqdm(fresh, desc=f"{title}cells of {old.name}", disable=quiet or not fresh, dynamic_ncols=True):
        if not earlier.intact(folder):
            refused.append(f"{old / folder}: changed or incomplete, so not reused")
        elif usable := earlier.usable(folder):
            files[folder] = usable
    write_json(run / REUSED, {"run": described["run"], "cells": [*reused, *files]})
    for usable in files.values():
        _link(old, run, usable)
    return Reuse(len(reused) + len(files), len(setup.all_cells()), refused)


def _adopt_finished(earlier: Earlier, run: Path) -> None:
    """Link the answers of rows that nothing is trained for, as far as the earlier run has the same ones."""
    before = earlier.identity.get("finished", {})
    for row in earlier.setup.finished if not earlier.foreign else ():
        folder = f"cells/{row.name}"
        if before.get(row.name) == row.identity and earlier.intact(folder) and not (run / folder).exists():
            _link(earlier.folder, run, earlier.answers(folder, "test", row.tasks(earlier.setup.tasks)))


def _reused(run: Path) -> list[str]:
    path = run / REUSED
    return list(read_json(path)["cells"]) if path.exists() else []


def _link(old: Path, run: Path, files: Iterable[Path]) -> None:
    """Hard links keep mode and bytes and take no room; nothing here writes into a file that has a name already."""
    for source in files:
        target = run / source.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
            partial.touch(mode=0o600)
            shutil.copyfile(source, partial)
            shutil.copymode(source, partial)
            partial.replace(target)
