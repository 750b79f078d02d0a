"""What a finished run came to, as pandas DataFrames."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from sails_eval.boards.page import SMOKE_TEST, notes
from sails_eval.boards.rate_choice import Choice
from sails_eval.boards.table import METRICS, make_frame, read_rows, rows_of
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.records import Result, RowKey, Split, Verdict
from sails_eval.core.tables import interval_text
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.tasks.library import find_tasks

SHOWN = ("alignment_score", "refusal_rate", "helpfulness")
"""The metrics that a notebook shows of each row, with their intervals."""

OF_A_ROW = ("sub_run", "method", "seed", "learning_rate", "split", "task")
RESULTS = (*OF_A_ROW, "category", "metric", "value", "n", "unscored")
SAMPLES = (*OF_A_ROW, "category", "id", "prompt", "response", "label", "score", "unscored", "value")


@dataclass(frozen=True, repr=False)
class Run:
    """A finished run. Tables are read on first use, and cached.

    A run over several pairs or budgets has `sub_runs`, a `Run` for each; its leaderboard covers all of them.
    """

    path: Path

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """One row per method, best first, with the columns and units of leaderboard.csv (see: sails-eval docs boards).

        Rates are fractions from 0 to 1; `_low` and `_high` are the bounds of 95 % intervals; missing values are NaN.
        A quick run has its rows as they were asked for, without intervals.
        """
        return make_frame(read_rows(self._folder.leaderboard))

    @cached_property
    def results(self) -> pd.DataFrame:
        """Each metric of each model on each category of each task; the category 'all' is the whole task.

        Columns: sub_run (its folder, '' where there is one only), method, seed, learning_rate (both missing for models
        that were not trained here), split, task, category, metric, value (a mean), n (scored answers), unscored.
        """
        rows = ({"sub_run": name, **asdict(row)} for name, found in self._results.items() for row in found)
        return _frame(rows, RESULTS)

    @property
    def sub_runs(self) -> dict[str, "Run"]:
        """The runs of single pairs and budgets that this run consists of, by folder; empty if there is only one."""
        _, *parts = self._folder.with_sub_runs()
        return {self._folder.relative(part.path): Run(part.path) for part in parts}

    def samples(
        self,
        *,
        method: str | None = None,
        seed: int | None = None,
        task: str | None = None,
        split: Split = "test",
        all_rates: bool = False,
    ) -> pd.DataFrame:
        """The answers with their verdicts, one per row; only those of a method, seed or task if given.

        By default for the learning rates chosen for the leaderboard; with `all_rates` for all that were tried, most of
        which were judged on the split 'validation' only.

        Columns: sub_run, method, seed, learning_rate, split, task, category, id (of the prompt), prompt, response,
        label ('refusal', 'deflection', 'partial', 'compliance' or 'broken'), score (of harmful requests: 1 is a
        complete refusal, 5 fully harmful), unscored (why there is no verdict), value (the task's own check: 1 is
        correct). Values that do not apply are missing: capability tasks have no verdicts, most others no check.

        Raises UserError for a method, seed or task that is not in the run, and for missing files.
        """
        asked = {"method": method, "seed": seed, "task": task, "split": split}
        for column, value in asked.items():
            known = {str(one) for one in self.results[column].dropna()}
            if value is not None and str(value) not in known:
                raise unknown(f"{column} of {self.path}", str(value), known)

        def wanted(row: RowKey, choices: Mapping[str, Choice]) -> bool:
            chosen = row.learning_rate == choices[row.method].rate_of(row.seed)
            named = all(value is None or str(value) == str(vars(row)[column]) for column, value in asked.items())
            return named and (all_rates or chosen)

        rows = (
            {"sub_run": name, **row}
            for name, folder in self._parts.items()
            for row in self._samples(name, folder, wanted)
        )
        return _frame(rows, SAMPLES)

    def adapter(self, method: str, seed: int | None = None) -> Path:
        """The checkpoint folder of a method at its chosen learning rate, by default of the lowest seed.

        An adapter that `peft.PeftModel.from_pretrained(base, folder)` loads, or a whole model for
        `transformers.AutoModelForCausalLM.from_pretrained(folder)` where the method trains all parameters.

        Raises UserError if the run has no such method or seed, kept no checkpoint, or has several pairs or budgets (use
        one of `sub_runs` then).
        """
        if len(self._parts) > 1:
            raise UserError(
                f"{self.path}: has several pairs or budgets; use run.sub_runs[NAME].adapter(...), with NAME one of "
                f"{', '.join(self._parts)}"
            )
        ((name, folder),) = self._parts.items()
        seeds: dict[str, set[int]] = {}
        for row in self._results[name]:
            if row.seed is not None and row.split == "test":
                seeds.setdefault(row.method, set()).add(row.seed)
        if method not in seeds:
            raise unknown(f"trained method of {self.path}", method, seeds)
        if seed is not None and seed not in seeds[method]:
            raise unknown(f"seed of {method}", str(seed), map(str, seeds[method]))
        seed = min(seeds[method]) if seed is None else seed
        checkpoint = folder.model(method, seed, self._choices(folder)[method].learning_rate).checkpoint
        if not checkpoint.is_dir():
            raise UserError(f"{checkpoint}: not kept; make the run again in another folder (out) with keep='best'")
        return checkpoint

    def report(self) -> str:
        """The leaderboard page in Markdown: the table, warnings, comparisons, columns and provenance."""
        return self._folder.leaderboard_page.read_text(encoding="utf-8")

    def __repr__(self) -> str:
        pair, methods = self._folder.description().pair, ", ".join(self.leaderboard["method"])
        return f"Run({str(self.path)!r}: {methods} on {pair})"

    def _repr_html_(self) -> str:
        """For notebooks: the headline of the leaderboard, and what to know before believing it."""
        shown = pd.DataFrame(
            {
                "#": row["rank"] or "–",
                "method": row["method"],
                **{
                    METRICS[name].title: interval_text(*(row[name + end] for end in ("", "_low", "_high")))
                    for name in SHOWN
                },
            }
            for row in rows_of(self.leaderboard)
        )
        told = [*[SMOKE_TEST] * self._folder.description().quick, *notes(self.leaderboard)]
        beware = "".join(f"<li>{escape(note)}</li>" for note in told)
        return f"<p>{escape(repr(self))}</p>{shown.to_html(index=False)}<ul>{beware}</ul>"

    # --- the files ----------------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.path)

    @cached_property
    def _parts(self) -> dict[str, RunFolder]:
        """The folders that hold results, by their name in the run."""
        return {name: RunFolder(run.path) for name, run in self.sub_runs.items()} or {"": self._folder}

    @cached_property
    def _results(self) -> dict[str, list[Result]]:
        return {name: folder.results() for name, folder in self._parts.items()}

    def _choices(self, folder: RunFolder) -> dict[str, Choice]:
        return folder.choices({} if folder.chosen.exists else find_tasks())

    def _samples(
        self, part: str, folder: RunFolder, wanted: Callable[[RowKey, Mapping[str, Choice]], bool]
    ) -> Iterator[dict[str, Any]]:
        """The answers of one pair at one budget, model by model and task by task."""
        choices, judge = self._choices(folder), folder.description().identity.judge
        length = len(fields(RowKey))
        judged = {RowKey(*astuple(row)[:length]): row.metric != "capability" for row in self._results[part]}
        for row, was_judged in judged.items():
            if wanted(row, choices):
                model = folder.model(row.method, row.seed, row.learning_rate)
                verdicts = model.verdicts(row.split, row.task, judge) if was_judged else []
                by_id = {verdict.id: verdict for verdict in verdicts}
                for answer in model.answers(row.split, row.task):
                    verdict = by_id.get(answer.id, Verdict(answer.id))
                    said = {"label": verdict.label, "score": verdict.score, "unscored": verdict.unscored}
                    yield {**asdict(row), **asdict(answer), **said}


def _frame(rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """A table with these columns, even if it has no rows; whole numbers that may be missing stay whole."""
    whole = {name: "Int64" for name in ("seed", "score") if name in columns}
    return pd.DataFrame(list(rows), columns=list(columns)).astype({"learning_rate": "float64", **whole})
