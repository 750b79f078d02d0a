"""Cells of an earlier run in a new one: those that the same things determine, if their files are as they were."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sails_eval.core.checksums import listing
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.files import sync
from sails_eval.core.fingerprint import of_path
from sails_eval.core.progress import bar
from sails_eval.core.recipe import Recipe
from sails_eval.core.records import BASE, Split
from sails_eval.core.version import __version__
from sails_eval.models.engines import HF, resolve_engine
from sails_eval.plan.identity import Identity, differences
from sails_eval.plan.plan import Plan, SubRun
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.records import Reused, Seal
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import TaskInfo

SHARE = "its tokens, its recipe or code"

FIXED = "--protocol confirm fixes all rows before the test, so --against and --add cannot be used"

FREE = {"calibration", "add", "against", "comparisons", "device", "jobs", "keep", "out", "reference"}
"""What may differ where an earlier run is extended; the rest is taken from that run."""


def extended(config: CompareConfig) -> CompareConfig:
    """The configuration of the run `against`, with what is to be added; `config` itself where it extends none.

    Raises UserError where the earlier run is none or not finished, or a flag contradicts it.
    """
    if config.against is None and not config.add:
        return config
    if config.protocol == "confirm":
        raise UserError(FIXED)
    if config.against is None or not (config.add or config.reference):
        raise UserError("--add METHOD (or --reference MODEL) and --against RUN must be given together")
    old = RunFolder(config.against)
    if not old.exists:
        raise UserError(f"--against {old.path}: not a run folder (no run.json); for a list: sails-eval runs list")
    described, where = old.description(), old.description_file
    if described.version == __version__ and described.identity.fingerprint != described.run:
        raise UserError(f"{where}: changed since the run; restore the file, or make the run again")
    if config.out is not None and config.out.resolve() == old.path.resolve():
        raise UserError(f"--out {config.out}: this is the folder of --against; give another one, or leave --out out")
    before = described.asked(where)
    if before.protocol == "confirm":
        raise UserError(f"--against {old.path}: a confirmation; {FIXED}; start a new run with all methods")
    for key in sorted(config.model_fields_set - FREE):
        asked, was = getattr(config, key), getattr(before, key)
        if asked != was and not (key == "engine" and resolve_engine(asked) == resolve_engine(was)):
            flag = f"--{key.replace('_', '-')}"
            raise UserError(
                f"{flag} {_text(asked)} differs from {old.path}, which has {_text(was)}; leave out {flag}, or start a "
                "new run"
            )
    if twice := sorted({Path(name).stem for name in config.add} & {Path(name).stem for name in before.methods}):
        raise UserError(f"--add {twice[0]}: already in {old.path}; leave it out")
    anew = {key: getattr(config, key) for key in FREE & config.model_fields_set - {"add", "against"}}
    return before.model_copy(update={"out": None, **anew, "methods": (*before.methods, *config.add)})


def _text(value: Any) -> str:
    """A flag's value as one would type it."""
    if value is None or value == ():
        return "none"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def seal(run: RunFolder, sub_run: SubRun) -> None:
    """Write the hashes by which a later run sees that nothing was changed since."""
    paths = [path for path in _sealed(run, sub_run) if path.exists()]
    Seal(hashes={run.relative(path): of_path(path) for path in paths}).write(run.seal.path)


def check_untouched(run: RunFolder) -> None:
    """Raises UserError where what a finished confirmation stands on is there, and not what it was."""
    for one in run.with_sub_runs():
        for name, was in (one.seal().hashes if one.seal.exists else {}).items():
            if (path := one.path / name).exists() and of_path(path) != was:
                raise UserError(
                    f"{path}: changed since this confirmation was finished; restore it, or give another --out to run "
                    "it again"
                )


def _sealed(run: RunFolder, sub_run: SubRun) -> Iterator[Path]:
    yield from (run.row(name).path for name in (BASE, *(row.name for row in sub_run.references)))
    yield from (run.cell(cell).path for cell in sub_run.all_cells())
    for recipe in sub_run.recipes:
        for seed in sub_run.starts(recipe):
            yield from _subspace(run, recipe, seed)


def _subspace(run: RunFolder, recipe: Recipe, seed: int | None) -> list[Path]:
    """The files that an initialisation starts from; with the last one they are complete."""
    return [run.subspace_report_file(recipe.name, seed), run.subspace(recipe.name, seed)]


def check_sealed(old: RunFolder, plan: Plan) -> None:
    """Raises UserError where a part of the earlier run is not finished: then nothing says what its files should be."""
    if not all(old.sub_run(one).seal.exists for one in plan.sub_runs):
        raise UserError(f"--against {old.path}: not finished; give that run's command again first")


@dataclass(frozen=True)
class Earlier:
    """A finished run, and which of its files mean the same in the run that `sub_run` describes."""

    run: RunFolder
    identity: Identity
    hashes: dict[str, str]
    sub_run: SubRun

    @property
    def foreign(self) -> list[str]:
        """What makes everything in it another thing: another version of this package or of its libraries."""
        keys = {"environment", "version"}
        before, now = (one.model_dump(include=keys) for one in (self.identity, self.sub_run.identity))
        return differences(before, now)

    def same_recipe(self, recipe: Recipe) -> bool:
        """Whether its cells of the recipe are trained on the same model, data, tokens and settings."""
        ours = self.sub_run.identity.recipes
        return not self.foreign and self.identity.recipes.get(recipe.name) == ours[recipe.name]

    def intact(self, path: Path) -> bool:
        """Whether a model's folder or a file is there as the run left it: nothing added, lost or changed."""
        name = self.run.relative(path)
        return name in self.hashes and path.exists() and of_path(path) == self.hashes[name]

    def usable(self, model: ModelFolder) -> list[Path]:
        """The files of a cell that hold for the new run, its record last; none where it would be trained anyhow.

        Answers hold where task and engine are the same, verdicts where the judge is, too. What was kept of several
        checkpoints holds only with all of these.
        """
        tasks = self.sub_run.validation_tasks
        files = model.files("checkpoint") + self.answers(model, "validation", tasks)
        answered = all(model.answers_file("validation", task.name) in files for task in tasks)
        files += self.answers(model, "test", self.sub_run.tasks) + model.files("record")
        if model.stopped.exists:
            before, now = self.identity, self.sub_run.identity
            judged = (before.judge, before.tasks) == (now.judge, now.tasks)
            return [*model.files("steps"), *files] if answered and judged else []
        return files if answered or model.checkpoint.exists() else []

    def answers(self, model: ModelFolder, split: Split, tasks: Sequence[TaskInfo]) -> list[Path]:
        """The answers to tasks of a split that hold for the new run, with the verdicts that do."""
        before, now = self.identity, self.sub_run.identity
        files: list[Path] = []
        if (before.limit, before.engine or {"name": HF}) != (now.limit, now.engine):
            return files
        for task in tasks:
            answers = model.answers_file(split, task.name)
            verdicts = model.verdicts_file(split, task.name, now.judge)
            if before.tasks.get(task.name) == now.tasks[task.name] and answers.exists():
                files += [answers, *([verdicts] if before.judge == now.judge and verdicts.exists() else [])]
        return files


def adopt(old: RunFolder, run: RunFolder, sub_run: SubRun, *, quiet: bool, title: str = "") -> list[str]:
    """Link what an earlier run has of the cells of `sub_run` into `run`, once each is verified; why others are not.

    A cell that was trained here or is here already stays as it is. A kill leaves cells without their record, which the
    next call links anew. Where the file system cannot link, files are copied.
    """
    described = old.description()
    earlier, refused = Earlier(old, described.identity, old.seal().hashes, sub_run), list[str]()
    base = old.row(BASE)
    if earlier.foreign:
        refused.append(f"{old.path}: {', '.join(earlier.foreign)} differ, so none of its cells are reused")
    elif earlier.identity.model == sub_run.identity.model and not run.row(BASE).path.exists():
        _link(old, run, earlier.usable(base) if earlier.intact(base.path) else [])
    _adopt_references(earlier, run)
    for recipe in sub_run.recipes:
        if earlier.same_recipe(recipe):
            for seed in sub_run.starts(recipe):
                files = _subspace(old, recipe, seed)
                if all(map(earlier.intact, files)) and not run.subspace(recipe.name, seed).exists():
                    _link(old, run, files)
        elif recipe.name in earlier.identity.recipes and not (earlier.foreign or earlier.same_recipe(recipe)):
            what = differences(earlier.identity.training, sub_run.identity.training) or [
                SHARE if sub_run.budget.tokens else "its recipe or code"
            ]
            refused.append(f"{recipe.name}: trained again, since {', '.join(what)} changed since {old.path}")
    before = run.reused().cells if run.reused.exists else []
    reused = [name for name in before if ModelFolder(run.path / name).trained]
    cells = [cell for cell in sub_run.all_cells() if earlier.same_recipe(cell.recipe)]
    fresh = [old.cell(cell) for cell in cells if not run.cell(cell).trained]
    found: dict[str, list[Path]] = {}
    with bar(f"{title}cells of {old.path.name}", len(fresh), quiet=quiet) as looked_at:
        for model in fresh:
            if not earlier.intact(model.path):
                refused.append(f"{model.path}: changed or incomplete, so not reused")
            elif usable := earlier.usable(model):
                found[old.relative(model.path)] = usable
            looked_at.update()
    Reused(run=described.run, cells=[*reused, *found]).write(run.reused.path)
    for usable in found.values():
        _link(old, run, usable)
    return refused


def _adopt_references(earlier: Earlier, run: RunFolder) -> None:
    """Link the answers of rows that nothing is trained for, as far as the earlier run has the same ones."""
    sub_run, before = earlier.sub_run, earlier.identity.finished
    for row in sub_run.references if not earlier.foreign else ():
        model = earlier.run.row(row.name)
        if before.get(row.name) == row.identity and earlier.intact(model.path) and not run.row(row.name).path.exists():
            _link(earlier.run, run, earlier.answers(model, "test", row.tasks(sub_run.tasks)))


def _link(old: RunFolder, run: RunFolder, files: Iterable[Path]) -> None:
    """Hard links keep mode and bytes and take no room; nothing here writes into a file that has a name already.

    The hash of a file comes with it, before it.
    """
    for source in (one for file in files for one in (listing(file), file) if one.is_file()):
        target = run.path / old.relative(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
            partial.touch(mode=0o600)
            shutil.copy(source, partial)
            sync(partial)
            partial.replace(target)
        sync(target.parent)
