"""Subjects answer, a judge reads, and scores come out: what comparing and evaluating have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sails_eval import judges
from sails_eval.boards.scoring import score
from sails_eval.core.errors import CellFailed, UserError
from sails_eval.core.progress import bar, heard
from sails_eval.core.records import Result, RowKey, Split, Verdict, read_verdicts
from sails_eval.judges.base import JudgedKind, check_heard, is_transient
from sails_eval.models.engines import HF, served
from sails_eval.plan import checks
from sails_eval.plan.plan import Cell, EvaluationPlan, PlannedJudge, ReferenceModel
from sails_eval.run import stages
from sails_eval.run.failures import Failures
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.outlook import TrainingBar
from sails_eval.run.remote_judging import RemoteJudging
from sails_eval.run.stages import AnswerJob, JudgeJob, Subject
from sails_eval.run.workers import Hosts, Workers
from sails_eval.tasks.library import TaskInfo


def engine_host(pool: Workers, hosts: Hosts, plan: EvaluationPlan) -> Workers:
    """The process in which the plan's engine lives: one for a base model, however many comparisons use it.

    The workers end, so that their memory is the engine's.
    """
    pool.rest()
    return hosts.of((plan.engine, served(plan.pair)))


def check_engine(pool: Workers, hosts: Hosts, plan: EvaluationPlan) -> None:
    """Start an engine that is there once, and see that it can do what the plan needs. Raises UserError if not."""
    if plan.engine != HF:
        engine_host(pool, hosts, plan).run(checks.check_engine, plan)


@dataclass(frozen=True)
class Evaluator:
    """A plan at work: its run folder, its worker processes, the host of its engine, and how progress bars begin.

    `work` is what a worker does for a subject's answers where the engine is hf. `failures` collects cells that fail;
    without it, the first one stops the work.
    """

    plan: EvaluationPlan
    run: RunFolder
    pool: Workers
    hosts: Hosts
    quiet: bool = False
    title: str = ""
    work: Callable[[AnswerJob], None] = stages.prepare_and_answer
    failures: Failures | None = None

    def measure(self, subjects: Sequence[Subject], split: Split) -> list[Result]:
        """Have the subjects answer the split's tasks (training them first where needed), judge that, and score it.

        Raises UserError where the judge leaves everything unscored.
        """
        rows = self._measure(subjects, split)
        if _all_unscored(rows):
            check_heard(self.plan.judge.name, self._verdicts(subjects, split))
        return rows

    def _measure(self, subjects: Sequence[Subject], split: Split) -> list[Result]:
        tasks = self._tasks(split)
        with self._judging(
            self.plan.judge.spec, len(self._judge_jobs(subjects, split)), title=f"{split}: verdicts"
        ) as add:
            self.answer(
                [self._job(one, tasks, split) for one in subjects],
                title=f"{split}: answers",
                done=lambda job: add(self._judge_jobs([job.subject], split)),
            )
        return [row for subject in self._left(subjects) for task in tasks for row in self._score(subject, task, split)]

    def _left(self, subjects: Sequence[Subject]) -> list[Subject]:
        """Those of the subjects that did not fail."""
        return [one for one in subjects if self.stands(one.cell)]

    def stands(self, cell: Cell | None) -> bool:
        """Whether it is no cell that failed."""
        return self.failures is None or not self.failures.of(cell)

    def _failed(self, job: AnswerJob | JudgeJob, error: CellFailed) -> None:
        cell = job.subject.cell if isinstance(job, AnswerJob) else job.cell
        if self.failures is None or cell is None:
            raise error
        self.failures.note([cell], error)

    def subjects(self, cells: Sequence[Cell]) -> list[Subject]:
        """Cells, as models whose answers are wanted."""
        folders = [(cell, self.run.cell(cell)) for cell in cells]
        return [Subject(cell.recipe.name, folder, folder.checkpoint, cell) for cell, folder in folders]

    def subject(self, row: ReferenceModel) -> Subject:
        """A row that nothing is trained for, as one whose answers are wanted."""
        return Subject(row.name, self.run.row(row.name), row.checkpoint, system_prompt=row.system_prompt)

    def at(self, row: ReferenceModel) -> Evaluator:
        """The same with a row's own model, its engine and the tasks that it can answer."""
        plan = replace(self.plan, pair=row.pair, engine=row.engine, tasks=row.tasks(self.plan.tasks))
        return replace(self, plan=plan, title=f"{self.title}{row.name}, ")

    def measure_references(self, rows: Sequence[ReferenceModel]) -> list[Result]:
        """The test of rows that nothing is trained for, one after another: each may be a model of its own.

        Raises UserError where the judge cannot be heard on one of them; what it will never score is a row without.
        """
        results = []
        for row in rows:
            evaluator, subjects = self.at(row), [self.subject(row)]
            results += (own := evaluator._measure(subjects, "test"))
            if _all_unscored(own) and any(map(is_transient, said := evaluator._verdicts(subjects, "test"))):
                check_heard(self.plan.judge.name, said)
        return results

    def answer(
        self,
        jobs: Sequence[AnswerJob],
        *,
        title: str,
        done: Callable[[AnswerJob], object] = lambda job: None,
    ) -> None:
        """Have the subjects of these jobs answer, after training them where needed.

        The workers do both, unless the engine is one that is there once: then they train everything first. Neither has
        to share its memory with the other.
        """
        if self.plan.engine == HF:
            with self._training([job.subject for job in jobs if stages.to_train(job)]):
                self.pool.map(self.work, jobs, title=f"{self.title}{title}", done=done, failed=self._failed)
            return
        self.train([job.subject for job in jobs if stages.to_train(job)], title=f"{title}: training")
        host = engine_host(self.pool, self.hosts, self.plan)
        left = [job for job in jobs if self._left([job.subject])]
        host.map(stages.answer, left, title=f"{self.title}{title}", done=done, failed=self._failed)

    def train(self, subjects: Sequence[Subject], *, title: str = "training") -> None:
        """Have the workers train subjects that are not trained yet; no engine takes memory meanwhile."""
        if subjects:
            self.hosts.close()
            jobs = [self._job(one, self.plan.tasks, "validation") for one in subjects]
            with self._training(subjects):
                self.pool.map(stages.prepare, jobs, title=f"{self.title}{title}", failed=self._failed)

    @contextmanager
    def _training(self, subjects: Sequence[Subject]) -> Iterator[None]:
        """A bar of the steps that training these takes, with the loss and the pace of the cell that was last heard."""
        title = f"{self.title}training"
        with bar(title, len(subjects), quiet=self.quiet) as trained, heard(TrainingBar(trained).hear):
            yield

    def agreement(self, subjects: Sequence[Subject], split: Split) -> Counter[bool]:
        """How many of their answers the pair's reference judge sees alike (label and score), and how many it does not.

        Answers that either judge leaves unscored do not count; nothing does where the pair has no reference judge.
        """
        reference = self.plan.reference_judge
        if reference is None:
            return Counter()
        others = self._judge_jobs(subjects, split, reference)
        with self._judging(reference.spec, len(others), title=f"{split}: reference verdicts") as add:
            add(others)
        seen: Counter[bool] = Counter()
        for mine, other in zip(self._judge_jobs(subjects, split), others, strict=True):
            for one, truth in zip(read_verdicts(mine.verdicts), read_verdicts(other.verdicts), strict=True):
                if one.unscored is None and truth.unscored is None:
                    seen[(one.label, one.score) == (truth.label, truth.score)] += 1
        return seen

    def among_members(self, subjects: Sequence[Subject]) -> str:
        """How the members of a panel or cascade came to the verdicts on the subjects' test answers; else empty."""
        judged: dict[JudgedKind, list[Verdict]] = {"harmful": [], "safe": []}
        for job in self._judge_jobs(subjects, "test"):
            judged[job.task.kind] += read_verdicts(job.verdicts)  # type: ignore[index]  # no capability tasks there
        return judges.judge_of(self.plan.judge.spec).among_members(judged)

    def _verdicts(self, subjects: Sequence[Subject], split: Split) -> list[Verdict]:
        return [verdict for job in self._judge_jobs(subjects, split) for verdict in read_verdicts(job.verdicts)]

    def unchanged(self, subjects: Sequence[Subject], base: Subject, limit: int | None = None) -> list[Subject]:
        """Subjects whose test answers (the first `limit` of every task) are all the base's own.

        Nothing was learnt, or nothing was applied.
        """

        def responses(subject: Subject, limit: int | None) -> list[list[str]]:
            answered = [subject.folder.answers("test", task.name) for task in self._generated]
            return [[completion.response for completion in answers[:limit]] for answers in answered]

        own = responses(base, limit)
        return [subject for subject in subjects if responses(subject, limit) == own]

    def sample(self, subject: Subject, limit: int) -> None:
        """Have a subject answer the first test prompts of every task whose answers can be compared."""
        job = self._job(subject, self._generated, "test")
        self.answer([replace(job, limit=min(limit, job.limit or limit))], title=f"{subject.method}: answers")

    @property
    def _generated(self) -> tuple[TaskInfo, ...]:
        return tuple(task for task in self.plan.tasks if task.kind != "capability")

    def _job(self, subject: Subject, tasks: tuple[TaskInfo, ...], split: Split) -> AnswerJob:
        plan = self.plan
        return AnswerJob(plan.pair, subject, tasks, split, self.run, plan.limit, plan.engine)

    def _tasks(self, split: Split) -> tuple[TaskInfo, ...]:
        return self.plan.tasks if split == "test" else self.plan.validation_tasks

    @contextmanager
    def _judging(self, judge: str, files: int, *, title: str) -> Iterator[Callable[[Sequence[JudgeJob]], None]]:
        """Gives a function that takes jobs for the judge. In the end all are done.

        A local judge has the workers to itself, once all answers are there, or a host, where it is there once; one
        behind an endpoint begins at once.
        """
        title, reader = f"{self.title}{title}", judges.judge_of(judge)
        if reader.parallel:
            jobs: list[JudgeJob] = []
            yield jobs.extend
            pool = self.hosts.of(("judge", judge)) if reader.hosted else self.pool
            pool.map(stages.judge, jobs, title=title, failed=self._failed)
        else:
            with (
                bar(title, files, quiet=self.quiet) as judged,
                RemoteJudging(reader, self.run.usage_file, judged) as remote,
            ):
                yield remote.add

    def _judge_jobs(
        self, subjects: Sequence[Subject], split: Split, judge: PlannedJudge | None = None
    ) -> list[JudgeJob]:
        """The judge's work on the subjects' answers, or that of another judge."""
        judge = judge or self.plan.judge
        return [
            JudgeJob(
                judge.spec,
                task,
                subject.folder.answers_file(split, task.name),
                subject.folder.verdicts_file(split, task.name, judge.fingerprint),
                subject.cell,
            )
            for subject in subjects
            for task in self._tasks(split)
            if task.kind != "capability"
        ]

    def _score(self, subject: Subject, task: TaskInfo, split: Split) -> list[Result]:
        folder, cell = subject.folder, subject.cell
        judged = task.kind != "capability"
        verdicts = folder.verdicts(split, task.name, self.plan.judge.fingerprint) if judged else None
        seed, rate = (cell.seed, cell.learning_rate) if cell else (None, None)
        row = RowKey(subject.method, seed, rate, split, task.name)
        answers = folder.answers(split, task.name)
        try:
            return score(task.kind, answers, verdicts, row=row)
        except ValueError as error:
            raise UserError(
                f"{folder.answers_file(split, task.name)}: {error}; delete it and give the command again"
            ) from error


def _all_unscored(rows: Sequence[Result]) -> bool:
    """Whether there are answers without a verdict, and none with one."""
    judged = [row for row in rows if row.metric == "broken_rate"]  # which every verdict counts in, and nothing else
    return any(row.unscored for row in judged) and not any(row.n for row in judged)
