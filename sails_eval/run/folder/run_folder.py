"""A run folder: all that was done, and the only code that knows where in it things lie."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from sails_eval.boards.leaderboard import Task, choose_rates
from sails_eval.boards.rate_choice import Choice
from sails_eval.boards.scoring import before_refusals, read_results, refusals, write_results
from sails_eval.core import checksums
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.errors import UserError
from sails_eval.core.escape import PlainFormatter
from sails_eval.core.files import check_folder, locked, write_text
from sails_eval.core.records import Completion, Result, RowKey, Verdict
from sails_eval.judges.base import Usage
from sails_eval.judges.usage import USAGE, read_usage, together
from sails_eval.plan.budget import Size
from sails_eval.plan.identity import Identity
from sails_eval.plan.plan import Cell, SubRun
from sails_eval.plan.protocol import Protocol as FixedProtocol
from sails_eval.plan.resolve import QUICK
from sails_eval.run.folder import records
from sails_eval.run.folder.analysis_files import AnalysisFiles
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.places import FolderPlace, Place, RecordPlace, below, ending, inside, own
from sails_eval.run.folder.records import Description, SubspaceReport

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, or of one of its sub-runs, which is a run folder of its own below it."""

    path: Path

    description_file = Place("run.json")  # written last when a run begins
    config_file = Place("config.yaml")
    log = Place("compare.log")
    results_file = Place("results.csv")
    leaderboard = Place("leaderboard.csv")
    leaderboard_page = Place("leaderboard.md")
    ledger = Place("budget.csv")
    tradeoff = Place("tradeoff.png")
    forest = Place("comparisons.png")
    usage_file = Place(USAGE)  # what judges have used
    protocol = RecordPlace("protocol.yaml", FixedProtocol)  # written before anything is tested
    tuned = RecordPlace("tuning.json", records.Tuned)  # written before the test is answered
    chosen = RecordPlace("choices.json", records.Choices)
    pace = RecordPlace("pace.json", records.Pace)
    seal = RecordPlace("cells.json", records.Seal)  # written last when a run ends: it says what its files should be
    reused = RecordPlace("reused.json", records.Reused)
    failed = RecordPlace("failed.json", records.Failed)  # why rows have no score, if any
    finished = RecordPlace("finished.json", records.Finished)  # written after all else: nothing is to be done again
    _lock = Place(".lock")
    _models = FolderPlace("cells")
    _evaluated = FolderPlace("answers")
    _base_sample = FolderPlace("base_sample")
    _subspaces = FolderPlace("subspace")

    # --- models and what they start from ------------------------------------------------------------------------------

    def cell(self, cell: Cell) -> ModelFolder:
        return ModelFolder(inside(self._models, cell.recipe.name, cell.name))

    def row(self, name: str) -> ModelFolder:
        """A row that nothing is trained for: the base model, or a reference."""
        return ModelFolder(inside(self._models, name))

    @property
    def evaluated(self) -> ModelFolder:
        """The model that `evaluate` is about."""
        return ModelFolder(self._evaluated)

    @property
    def base_sample(self) -> ModelFolder:
        """A few of the base model's answers, to see whether an adapter changes any."""
        return ModelFolder(self._base_sample)

    def model(self, method: str, seed: int | None, rate: float | None) -> ModelFolder:
        """A row's model, found by what the results say of it. Raises UserError where there is none, or several."""
        if seed is None:
            return self.evaluated if self._evaluated.is_dir() else self.row(method)
        place = inside(self._models, method)
        cells = below(place, f"rate-{rate:g}-seed-{seed}-*")
        if len(cells) != 1:
            raise UserError(
                f"{place}: {len(cells)} folders for learning rate {rate:g} and seed {seed}, but expected one; restore "
                "the run's files, or make the run again"
            )
        return ModelFolder(cells[0])

    def checkpoints(self, method: str, rate: float) -> list[Path]:
        """What is kept of a method's trainings at a rate: the checkpoint of each seed."""
        cells = sorted(inside(self._models, method).glob(f"rate-{rate:g}-seed-*"))
        return [cell.checkpoint for cell in map(ModelFolder, cells) if cell.checkpoint.is_dir()]

    def trained_cells(self) -> int:
        """How many trainings are done, in all sub-runs."""
        return sum(1 for run in self.with_sub_runs() for _ in run._models.glob("*/*/train.json"))

    def subspace(self, method: str, seed: int | None = None) -> Path:
        """The tensors that a recipe's initialisation starts from; `seed` where each has its own."""
        place = inside(self._subspaces, method, *([] if seed is None else [f"seed-{seed}"]))
        return ending(place, ".safetensors")

    def subspace_report_file(self, method: str, seed: int | None = None) -> Path:
        return self.subspace(method, seed).with_suffix(".json")

    def subspace_report(self, method: str, seed: int | None = None) -> SubspaceReport:
        return SubspaceReport.read(self.subspace_report_file(method, seed))

    def subspace_reports(self) -> dict[str, list[SubspaceReport]]:
        """All of them, by method: one, or one for each seed."""
        found: dict[str, list[SubspaceReport]] = {}
        for path in sorted(self._subspaces.rglob("*.json")):
            method = path.stem if path.parent == self._subspaces else path.parent.name
            found.setdefault(method, []).append(SubspaceReport.read(path))
        return found

    def test_answers(self) -> list[Path]:
        """The files with test answers of all models; those of models that an analysis changed are not among them."""
        places = [(run._models, run._evaluated, run._base_sample) for run in self.with_sub_runs()]
        return sorted(file for each in places for place in each for file in place.rglob("completions/test/*.jsonl"))

    def models(self) -> list[ModelFolder]:
        """Everything that answered in the run, or was trained for it."""
        of_methods = sorted(path for depth in ("*/", "*/*/") for path in below(self._models, depth))
        return [self.evaluated, self.base_sample, *map(ModelFolder, of_methods)]

    def subspace_files(self) -> list[tuple[Path, Path]]:
        """All tensors that initialisations start from, each with its report, whichever of the two is there."""
        stems = {
            path.with_suffix("") for path in self._subspaces.rglob("*") if path.suffix in (".json", ".safetensors")
        }
        return [(ending(stem, ".safetensors"), ending(stem, ".json")) for stem in sorted(stems) if stem.name[0] != "."]

    def ends(self) -> list[Path]:
        """The files that the end of every run writes again, and that are read elsewhere."""
        return [self.finished.path, self.failed.path, self.seal.path, self.chosen.path, self.results_file]

    # --- what it came to ----------------------------------------------------------------------------------------------

    def analysis(self, name: str) -> AnalysisFiles:
        folder = inside(self.path, name)
        return AnalysisFiles(ending(folder, ".csv"), ending(folder, ".png"), ending(folder, ".md"), folder)

    def analyses(self, name: str) -> list[tuple[str, AnalysisFiles]]:
        """What an analysis found, here ('') and in sub-runs (their folders). Raises UserError where it was changed."""
        found = [(self.relative(run.path), run.analysis(name)) for run in self.with_sub_runs()]
        there = [("" if title == "." else title, files) for title, files in found if files.table.is_file()]
        for _, files in there:
            checksums.check(files.table)
        return there

    def results(self) -> list[Result]:
        """Raises UserError where there is no such run, or it is not finished."""
        if not self.path.exists():
            raise UserError(f"{self.path}: no such run folder (for the runs here: sails-eval runs list)")
        if self.exists and not self.results_file.is_file():
            raise UserError(
                f"{self.path}: the run is not finished (no results.csv); give its command again to resume it"
            )
        checksums.check(self.results_file)
        found = read_results(self.results_file)
        if not before_refusals(found):
            return found
        if not self.exists:
            raise UserError(
                f"{self.results_file}: has no refusal rates (older version), and without run.json the verdicts to "
                "count them from cannot be found; give the whole run folder"
            )
        log.warning("%s: has no refusal rates (older version); they are counted now from its verdicts", self.path)
        return found + refusals(found, self._judged)

    def _judged(self, row: RowKey) -> tuple[list[Completion], list[Verdict]]:
        """What a row of harmful requests was scored on."""
        model = self.model(row.method, row.seed, row.learning_rate)
        judge = self.description().identity.judge
        return model.answers(row.split, row.task), model.verdicts(row.split, row.task, judge)

    def write_results(self, results: Sequence[Result], choices: Mapping[str, Choice]) -> None:
        records.Choices(choices=dict(choices)).write(self.chosen.path)
        write_results(self.results_file, results)

    def choices(self, tasks: Mapping[str, Task]) -> dict[str, Choice]:
        """The choice of every row; in a run of 0.1.0, which has none on file, made from the tasks' results again."""
        if self.chosen.exists:
            return self.chosen().choices
        found = [row for row in read_results(self.results_file) if row.task in tasks]
        if before_refusals(found):  # then it was safety that chose
            found = [replace(row, metric="refusal_rate") if row.metric == "safety_rate" else row for row in found]
        return choose_rates(found, tasks)

    def usage(self) -> dict[str, Usage]:
        """What the judges of a run have used, in all its sub-runs."""
        return together(read_usage(path) for path in sorted(self.path.glob(f"**/{USAGE}")))

    # --- what it says of itself ---------------------------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        return self.description_file.is_file()

    def description(self) -> Description:
        """Raises UserError where it is no run folder."""
        if not self.exists:
            raise UserError(f"{self.path}: not a run folder (no run.json); for a list: sails-eval runs list")
        return Description.read(self.description_file)

    def relative(self, path: Path) -> str:
        """What a path is called inside the run."""
        return str(path.relative_to(self.path))

    def sub_run(self, one: SubRun) -> RunFolder:
        return RunFolder(inside(self.path, *one.folder.split("/"))) if one.folder else self

    def of_budget(self, size: Size) -> RunFolder:
        """Where the leaderboard over all pairs at one budget goes."""
        return RunFolder(inside(self.path, size.folder))

    def with_sub_runs(self) -> list[RunFolder]:
        """This folder and those of its sub-runs."""
        files = [file for depth in ("*/", "*/*/") for file in below(self.path, f"{depth}run.json")]
        return [self, *(RunFolder(file.parent) for file in files)]

    def check(self, identity: Identity) -> None:
        """Raises UserError if it holds another comparison (naming what differs) or something else, or is read-only."""
        check_folder(self.path)
        begun = (self.config_file, self.pace.path)  # what a run that was killed at its start may have left
        if self.exists:
            if found := self.description().identity.differences(identity):
                raise UserError(
                    f"{self.path}: contains another run, which differs in {', '.join(found)}; give another --out, or "
                    "leave --out out"
                )
        elif self.path.is_dir() and any(path not in begun and path.name[0] != "." for path in self.path.iterdir()):
            raise UserError(f"{self.path}: not empty and not a run folder (no run.json); give another --out")

    def check_protocol(self, asked: FixedProtocol | None) -> None:
        """Raises UserError where the run began with another one, or its file is not what it was."""
        if asked is not None and self.protocol.exists:
            asked.check_same(self.protocol(), self.protocol.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process is at work in the folder inside the block. Raises UserError where one is."""
        with locked(self.path, own(self._lock)):
            yield

    @contextmanager
    def opened(self, config: CompareConfig, description: Description) -> Iterator[Description]:
        """Make the run folder, or resume the run in it, and log there; yields its description. One process at a time.

        A resumed run keeps its description. Raises UserError as `check` does, or if another process uses the folder.
        """
        self.check(description.identity)
        self.path.mkdir(parents=True, exist_ok=True)
        with self.locked():
            if not self.exists:
                settled = set(QUICK) if config.quick else set()
                asked = config.model_dump(mode="json", exclude_none=True, exclude=settled)
                write_text(self.config_file, _as_yaml(asked))
                description.model_copy(update={"config": asked}).write(self.description_file)
            told, file = self.description(), self.config_file
            if told.config is not None and (not file.is_file() or file.read_bytes() != _as_yaml(told.config).encode()):
                write_text(file, _as_yaml(told.config))  # a copy for people
            with self._logged():
                yield told

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """What is logged is written into the run's file, too, whatever the caller of the API has logged elsewhere."""
        ours = logging.getLogger("sails_eval")
        level = ours.level
        if level == logging.NOTSET:
            ours.setLevel(logging.INFO)
        handler = logging.FileHandler(own(self.log), encoding="utf-8")
        handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(message)s"))
        ours.addHandler(handler)
        try:
            yield
        finally:
            ours.setLevel(level)
            ours.removeHandler(handler)
            with suppress(OSError):  # on a full disk, which the error that is raised tells
                handler.close()


def _as_yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False)


def board_file(path: Path) -> Path:
    """A board's file, or the leaderboard of a run folder. Raises UserError where it is neither."""
    if path.is_dir():
        run = RunFolder(path)
        if run.exists and not run.leaderboard.is_file():
            raise UserError(
                f"{path}: the run is not finished (no leaderboard.csv); give its command again to resume it"
            )
        return run.leaderboard
    if not path.exists():
        raise UserError(f"{path}: no such run folder or board (for the runs here: sails-eval runs list)")
    if path.is_file() and path.suffix != ".csv":
        raise UserError(f"{path}: not a board (.csv file); give the board's CSV file or a run folder")
    return path
