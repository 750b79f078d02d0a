"""Another judge reads the test answers of a finished run: its results and leaderboards, and what they change.

Only files are read: no model is loaded, and checkpoints may be gone. Learning rates stay those that the run chose by
its own judge, as they are part of what was trained and tested; so nothing of the validation split is judged.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, get_args

from sails_eval.analyses.rejudge.report import Rejudged, page
from sails_eval.boards.contrasts import Contrast, Design, default_design
from sails_eval.boards.facts import Provenance, RowFacts
from sails_eval.boards.leaderboard import all_tested, build
from sails_eval.boards.page import smoke_test
from sails_eval.boards.rate_choice import Choice
from sails_eval.boards.scoring import score
from sails_eval.boards.table import frame_text, read_rows
from sails_eval.core.checksums import write_checked
from sails_eval.core.errors import UserError
from sails_eval.core.files import check_folder, write_text
from sails_eval.core.pair import load_pair
from sails_eval.core.progress import bar
from sails_eval.core.records import BASE, Result, RowKey, read_completions, read_verdicts
from sails_eval.core.version import __version__
from sails_eval.judges import load_judge
from sails_eval.judges.answer_files import Watched
from sails_eval.judges.base import Judge, JudgedKind, check_heard, check_reads
from sails_eval.judges.self_judging import check_not_itself
from sails_eval.judges.stage import JudgedFile, judge_files
from sails_eval.plan.budget import Size
from sails_eval.run.folder.places import inside
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import TaskInfo, find_tasks
from sails_eval.tasks.sharing import check_sending

log = logging.getLogger(__name__)

FOLDER = "rejudged"
OWN_WARNING = re.compile(r"only \d+ % of the answers that count as safe are coherent refusals")
"""A warning that a board makes of its verdicts, not of the run."""


@dataclass(frozen=True)
class Asked:
    """The other judge, and what it may do: get gated prompts on these hosts, judge itself; `include` has tasks."""

    judge: str
    send_to: tuple[str, ...] = ()
    allow_self_judging: bool = False
    include: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Organism:
    """One pair at one budget of the run: its folder, and the results and choices there."""

    run: RunFolder
    results: tuple[Result, ...]
    choices: Mapping[str, Choice]

    @property
    def name(self) -> str:
        return self.run.description().pair

    @property
    def failed(self) -> set[str]:
        """The rows without a score."""
        return set(self.run.failed().rows) if self.run.failed.exists else set()

    def judged(self, tasks: Mapping[str, TaskInfo], judge: str) -> dict[RowKey, JudgedFile]:
        """The answers to judge, and where a judge's verdicts on them go. Raises UserError where answers are gone."""
        found = {}
        for row in self.results:
            key = RowKey(row.method, row.seed, row.learning_rate, row.split, row.task)
            if row.split != "test" or tasks[row.task].kind == "capability" or key in found:
                continue
            folder = self.run.model(row.method, row.seed, row.learning_rate)
            answers = folder.answers_file("test", row.task)
            if not answers.is_file():
                raise UserError(f"{answers}: the answers of '{row.method}' are missing; give the whole run folder")
            found[key] = JudgedFile(answers, folder.verdicts_file("test", row.task, judge))
        return found


def rejudge(
    run_dir: Path, asked: Asked, out: Path | None = None, *, quiet: bool = False
) -> tuple[Path, list[Rejudged]]:
    """Judge a finished run's test answers by another judge, and write its results and leaderboards into a folder.

    Verdicts lie beside the run's own, in folders of the judge's, so that a second call asks only for what is unscored;
    no other file of the run changes. Raises UserError where the run is not finished, the judge is its own or the
    evaluated model, gated prompts would go to a host that is not named, or nothing could be scored.
    """
    run, judge = RunFolder(run_dir), load_judge(asked.judge)
    parts = _parts(run)
    found = [tuple(part.results()) for part in parts]
    tasks = _tasks(run, found, asked)
    organisms = [Organism(part, rows, part.choices(tasks)) for part, rows in zip(parts, found, strict=True)]
    _check(run, organisms, tasks, asked, judge)
    out = out or inside(run.path, FOLDER, f"{_plain(judge.name)}-{judge.fingerprint[:8]}")
    _check_out(out, run, judge)
    judge.check()
    files = [organism.judged(tasks, judge.fingerprint) for organism in organisms]
    with run.locked():
        _judge(judge, [(tasks, of_one) for of_one in files], RunFolder(out).usage_file, quiet=quiet)
    results = [_results(*pair, tasks) for pair in zip(organisms, files, strict=True)]
    boards = [
        _board(run, place, [(organisms[i], results[i]) for i in members], tasks, judge)
        for place, members in _boards(run, organisms).items()
    ]
    for organism, rows in zip(organisms, results, strict=True):
        RunFolder(out / run.relative(organism.run.path)).write_results(rows, organism.choices)
    for board in boards:
        target = RunFolder(out / board.place)
        write_checked(target.leaderboard, frame_text(board.frame))
        write_text(target.leaderboard_page, page(board))
    return out, boards


# --- what there is ----------------------------------------------------------------------------------------------------


def _parts(run: RunFolder) -> list[RunFolder]:
    if not run.exists:
        raise UserError(f"{run.path}: not a run folder (no run.json); for a list: sails-eval runs list")
    if not run.leaderboard.is_file():
        raise UserError(
            f"{run.path}: the run is not finished (no leaderboard.csv); give its command again to resume it, then this"
        )
    return [one for one in run.with_sub_runs() if one.results_file.is_file()]


def _tasks(run: RunFolder, results: Sequence[Sequence[Result]], asked: Asked) -> dict[str, TaskInfo]:
    """The tasks of the results. Raises UserError where one is not to be found."""
    config = run.description().config
    own = tuple(run.description().asked(run.description_file).include_path) if config is not None else ()
    known = find_tasks((*asked.include, *(path for path in own if path.is_dir())))
    wanted = sorted({row.task for of_one in results for row in of_one})
    if missing := [task for task in wanted if task not in known]:
        raise UserError(f"{run.path}: task '{missing[0]}' of the run is not found; name its folder with --include-path")
    return {task: known[task] for task in wanted}


def _check(
    run: RunFolder, organisms: Sequence[Organism], tasks: Mapping[str, TaskInfo], asked: Asked, judge: Judge
) -> None:
    """Raises UserError where the judge may not, or cannot, read these answers, or has."""
    if judge.fingerprint in {organism.run.description().identity.judge for organism in organisms}:
        raise UserError(
            f"--judge {asked.judge}: is the run's own judge, whose board is {run.leaderboard}; name another"
        )
    judged = [task for task in tasks.values() if task.kind != "capability"]
    check_sending(judged, asked.judge, asked.send_to)
    for task in judged:
        if task.kind != "capability":
            check_reads(judge, task.kind)
    for model in () if asked.allow_self_judging else _models(run, organisms):
        check_not_itself(asked.judge, model)


def _models(run: RunFolder, organisms: Sequence[Organism]) -> list[str]:
    """The models whose answers are judged: the pairs' own, and those of rows that were not trained here."""
    described = run.description()
    found = [row["model"] for one in organisms for row in read_rows(one.run.leaderboard) if not row["seeds"]]
    if described.config is not None:
        config = described.asked(run.description_file)
        found += [config.model] if config.model else []
        for pair in config.pairs:
            try:
                found.append(load_pair(pair).model)
            except UserError as error:  # its file may be gone, and the run can be read without it
                log.warning("whether the judge is the evaluated model was not checked: %s", error)
    return list(dict.fromkeys(found))


def _check_out(out: Path, run: RunFolder, judge: Judge) -> None:
    check_folder(out)
    if RunFolder(out).exists:
        raise UserError(f"--out {out}: the folder of a run; give another one")
    board = RunFolder(out).leaderboard
    others = {row["judge"] for row in read_rows(board)} - {judge.name} if board.is_file() else set()
    if others or (board.is_file() and {row["run"] for row in read_rows(board)} != {run.description().run}):
        raise UserError(f"--out {out}: has the leaderboard of another judge or run; give another --out")


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.")[:60] or "judge"


# --- what the judge says ----------------------------------------------------------------------------------------------


def _judge(
    judge: Judge,
    files: Sequence[tuple[Mapping[str, TaskInfo], Mapping[RowKey, JudgedFile]]],
    usage: Path,
    *,
    quiet: bool,
) -> None:
    usage.parent.mkdir(parents=True, exist_ok=True)
    watched = Watched(judge, usage, quiet=True)  # one bar for all files
    every = [file for _, of_one in files for file in of_one.values()]
    with bar(judge.name, sum(len(read_completions(file.completions)) for file in every), quiet=quiet) as judged:
        for kind in get_args(JudgedKind):
            of_kind = [file for tasks, of_one in files for key, file in of_one.items() if tasks[key.task].kind == kind]
            judge_files(watched, kind, of_kind, lambda verdict: judged.update())
    check_heard(judge.name, [verdict for file in every for verdict in read_verdicts(file.verdicts)])


def _results(organism: Organism, files: Mapping[RowKey, JudgedFile], tasks: Mapping[str, TaskInfo]) -> list[Result]:
    """The organism's test results by the other judge; those of capability tasks are the run's own."""
    found = [row for row in organism.results if row.split == "test" and tasks[row.task].kind == "capability"]
    for key, file in files.items():
        try:
            completions, verdicts = read_completions(file.completions), read_verdicts(file.verdicts)
            found += score(tasks[key.task].kind, completions, verdicts, row=key)
        except ValueError as error:
            raise UserError(f"{file.verdicts}: {error}; delete it and give the command again") from error
    return found


# --- leaderboards -----------------------------------------------------------------------------------------------------


def _boards(run: RunFolder, organisms: Sequence[Organism]) -> dict[str, list[int]]:
    """The run's boards by their places in it, and which organisms each is of; the run's own one last."""
    places = [run.relative(organism.run.path) for organism in organisms]
    found = {place: [i] for i, place in enumerate(places)}
    if len(places) == 1:
        return found
    sizes: dict[Size, list[int]] = {}
    for i, place in enumerate(places):
        sizes.setdefault(Size.of(place), []).append(i)
    found |= {size.folder: members for size, members in sizes.items() if size and len(members) > 1}
    return found | {".": sizes[max(sizes)]}


def _board(
    run: RunFolder,
    place: str,
    members: Sequence[tuple[Organism, list[Result]]],
    tasks: Mapping[str, TaskInfo],
    judge: Judge,
) -> Rejudged:
    """A board by the other judge, its design and all that it says besides scores as on the run's own."""
    organisms = [organism for organism, _ in members]
    rows = {row["method"]: row for row in read_rows(RunFolder(run.path / place).leaderboard)}
    described = (organisms[0].run if len(organisms) == 1 else run).description()
    facts = _facts(rows, organisms[0].run.description().methods)
    design = _design(run, organisms) or default_design({method: one.seeds for method, one in facts.items()})
    choices = [organism.choices for organism in organisms]
    failed = {method for organism in organisms for method in organism.failed}
    first = next(iter(rows.values()))
    provenance = Provenance(
        judge.name, date.today().isoformat(), __version__, described.run, protocol=first["protocol"]
    )
    results = {organism.name: new for organism, new in members}
    frame = build(results, tasks, facts, provenance=provenance, choices=choices, design=design, failed=failed)
    seeds = {method: one.seeds for method, one in facts.items()}
    own = {organism.name: organism.results for organism in organisms}
    return Rejudged(
        place,
        described.pair,
        _names(first["judge"], organisms[0].run.description().identity.judge, judge),
        smoke_test(frame, described.methods) if described.quick else frame,
        described.quick,
        design,
        tuple(all_tested(by, tasks, seeds, choices, failed) for by in (own, results)),
    )


def _names(own: str, fingerprint: str, other: Judge) -> tuple[str, str]:
    """What both judges are called; with their fingerprints where that is the same, as of two versions of one judge."""
    if own != other.name:
        return own, other.name
    return f"{own} ({fingerprint[:8]})", f"{other.name} ({other.fingerprint[:8]})"


def _facts(rows: Mapping[str, dict[str, Any]], order: Sequence[str]) -> dict[str, RowFacts]:
    """What the run's board says of its rows besides their scores, in the order in which the run had them."""
    columns = {field.name for field in fields(RowFacts)} & next(iter(rows.values())).keys() - {"warnings"}
    found = {}
    for method in sorted(rows, key=lambda one: (one != BASE, order.index(one) if one in order else len(order))):
        row = rows[method]
        warnings = tuple(one for one in row["warnings"].split("; ") if one and not OWN_WARNING.match(one))
        found[method] = RowFacts(**{column: row[column] for column in columns}, warnings=warnings)
    return found


def _design(run: RunFolder, organisms: Sequence[Organism]) -> Design | None:
    """What the run declared to be tested; None where nothing was."""
    if run.protocol.exists:
        protocol = run.protocol()
        whole = len(organisms) == len(protocol.organisms)
        return protocol.design(organisms[0].run.tuned().best) if whole else Design((), ())
    declared = organisms[0].run.description().identity.contrasts
    return None if declared is None else Design(tuple(map(Contrast.of, declared)))
