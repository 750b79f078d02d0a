"""How much a leaderboard depends on the judge's wording: the same answers, judged with `harm` and its paraphrases."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from sails_eval.analyses.finished_run import read_tested
from sails_eval.boards.leaderboard import Tested, estimates
from sails_eval.boards.scoring import score
from sails_eval.core.errors import UserError
from sails_eval.core.pair import load_pair
from sails_eval.core.records import Result, RowKey, read_completions, read_verdicts
from sails_eval.core.tables import fitted, interval_text
from sails_eval.judges import load_judge
from sails_eval.judges.answer_files import Watched
from sails_eval.judges.rubric import PARAPHRASES
from sails_eval.judges.self_judging import check_not_itself
from sails_eval.judges.spec import Spec, each
from sails_eval.judges.stage import JudgedFile, judge_files
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import TaskInfo, find_tasks
from sails_eval.tasks.sharing import check_sending

WORDINGS = ("harm", *PARAPHRASES)
SHOWN = ("refusal_rate", "safety_rate", "alignment_score")


@dataclass(frozen=True)
class Sensitivity:
    """Per wording and method the values of `SHOWN`, and the largest share of answers that a wording left unscored."""

    judge: str
    values: Mapping[str, Mapping[str, Mapping[str, float]]]
    unscored: float

    def band(self, method: str, metric: str) -> tuple[float, float]:
        """The lowest and the highest value over the wordings."""
        found = [of_wording[method][metric] for of_wording in self.values.values()]
        return min(found), max(found)

    @property
    def changing_places(self) -> list[tuple[str, str]]:
        """The methods of which one is better by one wording, and the other by another."""
        first, *_ = self.values.values()
        return [(a, b) for a, b in combinations(sorted(first), 2) if self._ahead(a, b) and self._ahead(b, a)]

    def _ahead(self, a: str, b: str) -> bool:
        """Whether `a` is better than `b` by any wording."""
        metric = "alignment_score"
        return any(round(of_one[a][metric] - of_one[b][metric], 9) > 0 for of_one in self.values.values())


Answers = tuple[tuple[str, int | None, float | None], ModelFolder]
"""Whose answers (method, seed, learning rate), and the folder where they lie."""


def measure(
    run: Path,
    judge: str,
    include: Sequence[Path] = (),
    *,
    send_to: Sequence[str] = (),
    allow_self_judging: bool = False,
    quiet: bool = False,
) -> Sensitivity:
    """Judge the harmful test answers on a finished run's leaderboard in every wording.

    The verdicts stay beside the answers, so that a second call asks only for what is unscored; what it takes is added
    to the run's usage. Helpfulness is the run's own. Raises UserError where results or answers are missing, the
    judge takes no rubric or cannot work, or a gated set's prompts would go to a host that `send_to` does not name.
    """
    folder = RunFolder(run)
    if not folder.results_file.is_file():
        raise UserError(f"{run}: no results.csv; give the folder of a finished run of one pair")
    rows = read_tested(folder, include=include)
    choices = {method: row.choices[0] for method, row in rows.items()}
    results, known = folder.results(), find_tasks(tuple(include))
    tasks = {row.task: known[row.task] for row in results}
    asked = [task for task in tasks.values() if task.kind == "harmful"]
    check_sending(asked, judge, send_to)
    answers = list(_answers(folder, rows, asked))
    specs = {name: each(judge, partial(Spec.having, rubric=name)) for name in WORDINGS}
    if not allow_self_judging:
        check_not_itself(judge, _model(folder))
    judges = {name: load_judge(spec) for name, spec in specs.items()}
    for reader in judges.values():
        reader.check()
    kept = [row for row in results if row.split == "validation" or tasks[row.task].kind != "harmful"]
    values, unscored = {}, 0.0
    for name, reader in judges.items():
        judged = _judged(answers, asked, Watched(reader, folder.usage_file, title=name, quiet=quiet))
        if judged and not any(row.n for row in judged):
            raise UserError(
                f"judge '{reader.name}' scored no answer with the rubric {name}; once it works, give the same command "
                "again"
            )
        found = estimates(kept + judged, tasks, choices)
        values[name] = {method: {metric: found[method][metric].value for metric in SHOWN} for method in choices}
        unscored = max(unscored, _unscored(judged))
    return Sensitivity(load_judge(judge).name, values, unscored)


def _model(run: RunFolder) -> str:
    """The model that a run is of; empty where its run.json doesn't say."""
    if not run.exists or run.description().config is None:
        return ""
    config = run.description().asked(run.description_file)
    return load_pair(config.pairs[0]).model if config.pairs else config.model or ""


def _answers(run: RunFolder, rows: Mapping[str, Tested], tasks: Sequence[TaskInfo]) -> Iterator[Answers]:
    """The answers that the leaderboard's rows are made of. Raises UserError where those to the tasks are gone."""
    for method, row in rows.items():
        for seed in row.seeds:
            whose = method, seed, row.choices[0].rate_of(seed)
            folder = run.model(*whose)
            if not all(folder.answers_file("test", task.name).is_file() for task in tasks):
                raise UserError(
                    f"{folder.path}: the answers of '{method}' are missing; give the folder of one pair's run"
                )
            yield whose, folder


def _judged(answers: Sequence[Answers], tasks: Sequence[TaskInfo], judge: Any) -> list[Result]:
    """The models' results on the tasks, by a judge's verdicts that are asked for where there are none yet."""
    files = {
        RowKey(*whose, "test", task.name): JudgedFile(
            folder.answers_file("test", task.name), folder.verdicts_file("test", task.name, judge.fingerprint)
        )
        for whose, folder in answers
        for task in tasks
    }
    judge_files(judge, "harmful", list(files.values()))
    return [
        result
        for row, file in files.items()
        for result in score("harmful", read_completions(file.completions), read_verdicts(file.verdicts), row=row)
    ]


def _unscored(results: Sequence[Result]) -> float:
    every = [row for row in results if row.metric == "safety_rate" and row.category == "all"]
    total = sum(row.n + row.unscored for row in every)
    return sum(row.unscored for row in every) / total if total else 0.0


def report(found: Sensitivity) -> str:
    """The bands as a table, best method first, and whether the ranking is the same in every wording."""
    usual = found.values[WORDINGS[0]]
    ranked = sorted(usual, key=lambda method: -usual[method]["alignment_score"])
    rows = [["method", *(f"{metric} [lowest, highest]" for metric in SHOWN)]]
    for method in ranked:
        bands = [(usual[method][metric], *found.band(method, metric)) for metric in SHOWN]
        rows.append([method, *(interval_text(*band, ".3f") for band in bands)])
    pairs = found.changing_places
    stable = f"no ({'; '.join(f'{a} and {b} change places' for a, b in pairs)})" if pairs else "yes"
    wordings = f"judge {found.judge}; rubrics {', '.join(found.values)}; unscored at most {100 * found.unscored:.1f} %"
    return "\n".join([*fitted(rows), wordings, f"ranking stable: {stable}"])
