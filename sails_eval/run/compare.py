"""The main job: train every method on the same budget, judge their answers, and write the leaderboard.

Every rate is judged on validation only. The test is answered by the bare base model, and where a run explores by the
cells of the chosen rate and of those that would be chosen without one of the seeds. Where it confirms, rates are tuned
on all organisms first, and the test is answered by fresh seeds at the one rate that was found.
"""

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from sails_eval.boards.leaderboard import choose_rates
from sails_eval.boards.rate_choice import Choice
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.device import on_device
from sails_eval.core.errors import CellFailed
from sails_eval.core.progress import say
from sails_eval.core.records import BASE, Result
from sails_eval.judges import judge_of
from sails_eval.plan.checks import Checked
from sails_eval.plan.plan import Cell, Plan, SubRun
from sails_eval.plan.prepare import prepare
from sails_eval.run import stages, within_seed
from sails_eval.run.check import check_machine, check_plan
from sails_eval.run.early_stopping import stop_early
from sails_eval.run.failures import Failures, of_whole_rates, unscored_facts, whole_rates
from sails_eval.run.folder.description import describe, describe_plan
from sails_eval.run.folder.finished import asked, is_finished, note_finished
from sails_eval.run.folder.mend import mend
from sails_eval.run.folder.records import Description, Failed
from sails_eval.run.folder.reuse import adopt, extended, seal
from sails_eval.run.folder.run_folder import RunFolder
from sails_eval.run.header import describe_run, line, say_all
from sails_eval.run.match_budgets import matched, misjudged, write_pace
from sails_eval.run.outlook import outlook
from sails_eval.run.report.outcome import Outcome
from sails_eval.run.report.row_facts import row_facts, start_warnings, took
from sails_eval.run.runner import Evaluator
from sails_eval.run.stages import Subject
from sails_eval.run.tuning import tune
from sails_eval.run.workers import hosts, workers

log = logging.getLogger(__name__)


@on_device
def compare(config: CompareConfig, *, quiet: bool = False) -> Path:
    """Run a comparison, or resume one, and return its folder; the leaderboard is in leaderboard.csv there.

    With several pairs or budgets, each gets its own comparison, in a subfolder that is a complete run.
    """
    old = RunFolder(config.against) if config.against else None
    plan = prepare(extended(config))
    run, of = RunFolder(plan.folder), asked(plan)
    if is_finished(run, plan, of):
        say(f"{run.path}: already finished and unchanged; nothing to do", quiet=quiet)
        return run.path
    with workers(config.jobs, quiet=quiet) as pool, hosts(quiet=quiet) as engines:
        plan = check_machine(plan, pool)
        plan = matched(plan, pool, run, old=old)
        say_all(describe_run(plan, run, jobs=config.jobs), quiet=quiet)
        checked = check_plan(plan, run, old, pool, engines)  # bad input leaves no folder behind
        say_all([line("device", checked[0].device)] if checked[0].device else [], quiet=quiet)
        for one in plan.sub_runs:
            write_pace(run.sub_run(one), one)
        with run.opened(plan.config, describe_plan(plan)) as described:
            mend(run)
            _keep_protocol(run, plan)
            made = zip(plan.sub_runs, _titles(plan), strict=True)
            evaluators = [
                Evaluator(one, run.sub_run(one), pool, engines, quiet, title, failures=Failures())
                for one, title in made
            ]
            for evaluator, one, found in zip(evaluators, plan.sub_runs, checked, strict=True):
                with _opened(evaluator.run, one, described):
                    _note_training(evaluator, one, found)
                    _reuse(old, evaluator, one)
            outcomes = []
            with outlook(plan.sub_runs, run, jobs=config.jobs, quiet=quiet):
                sub_runs = _tuned(evaluators, plan) if plan.protocol else plan.sub_runs
                for evaluator, one in zip(evaluators, sub_runs, strict=True):
                    with _opened(evaluator.run, one, described) as own:
                        outcomes.append(compare_methods(replace(evaluator, plan=one), one, own))
            if len(outcomes) > 1:
                from sails_eval.run.report.report import write_joint

                write_joint(run, plan, outcomes, described)
            failed = any(evaluator.failures and evaluator.failures.reasons for evaluator in evaluators)
            if not failed and not any(_to_ask_again(outcome) for outcome in outcomes):
                note_finished(run, plan, of)
    return run.path


def compare_methods(evaluator: Evaluator, sub_run: SubRun, described: Description) -> Outcome:
    """One pair at one budget: find subspaces, train and validate, choose rates, test, report."""
    from sails_eval.run.report.report import write_outcome  # draws pictures: slow to import

    failures = evaluator.failures
    assert failures is not None
    _find_subspaces(evaluator, sub_run)
    validated = _validate(evaluator, failures.left(sub_run))
    left = failures.left(sub_run)
    validated = of_whole_rates(validated, left)
    choices = _choose(left, validated)
    left = _of_rows(left, choices)
    tested = _test(evaluator, left, choices)
    for cell in _contenders(left, choices):
        if failures.of(cell):
            choices.pop(cell.recipe.name, None)
    outcome = _outcome(evaluator, sub_run, choices, [*validated, *tested])
    write_outcome(evaluator.run, outcome, described)
    _note_failed(evaluator.run, outcome)
    if sub_run.config.keep == "none":
        _keep_checkpoints(evaluator.run, sub_run, ())
    if not failures.reasons:
        seal(evaluator.run, sub_run)
    return outcome


# --- the stages -------------------------------------------------------------------------------------------------------


def _find_subspaces(evaluator: Evaluator, sub_run: SubRun) -> None:
    starts = [(recipe, seeds) for recipe in sub_run.recipes if (seeds := sub_run.starts(recipe))]
    jobs = [stages.StartJob(sub_run.pair, recipe, seeds, evaluator.run) for recipe, seeds in starts]

    def failed(job: stages.StartJob, error: CellFailed) -> None:
        assert evaluator.failures is not None
        evaluator.failures.note(sub_run.cells(job.recipe), error)

    evaluator.pool.map(stages.find_subspace, jobs, title=f"{evaluator.title}subspaces", failed=failed)


def _tuned(evaluators: Sequence[Evaluator], plan: Plan) -> list[SubRun]:
    """The sub-runs with their rates tuned, on all organisms together."""
    for evaluator, one in zip(evaluators, plan.sub_runs, strict=True):
        _find_subspaces(evaluator, one)
    return tune(evaluators, plan.sub_runs)


def _validate(evaluator: Evaluator, sub_run: SubRun) -> list[Result]:
    """Every cell that chooses rates, trained where it is not yet, and the base model on validation.

    Of several checkpoints, each cell's best one is chosen before.
    """
    if sub_run.checkpoints > 1:
        stop_early(evaluator, sub_run, keep=sub_run.config.keep)
    return evaluator.measure(_with_base(evaluator, _validated(sub_run)), "validation")


def _choose(sub_run: SubRun, validated: Sequence[Result]) -> dict[str, Choice]:
    """The choice of every method that has a rate at which no cell failed."""
    if sub_run.tuning:
        choices = {recipe.name: choice for recipe in sub_run.recipes if (choice := sub_run.tuned(recipe))}
    elif sub_run.learning_rates == 1:
        rates = {recipe.name: whole_rates(sub_run, recipe) for recipe in sub_run.recipes}
        choices = {name: Choice(name, rate) for name, whole in rates.items() for rate in whole}
    else:
        found = choose_rates(validated, sub_run.named_tasks)
        choices = {recipe.name: found[recipe.name] for recipe in sub_run.recipes if recipe.name in found}
    for choice in choices.values():
        log.info("%s: learning rate %s of %s", choice.method, choice.learning_rate, dict(choice.scores))
    return choices


def _test(evaluator: Evaluator, sub_run: SubRun, choices: Mapping[str, Choice]) -> list[Result]:
    """Those cells that may be chosen, the base model and the references on the test; other checkpoints go."""
    contenders = _contenders(sub_run, choices)
    _keep_checkpoints(evaluator.run, sub_run, contenders)
    results = evaluator.measure(_with_base(evaluator, contenders), "test")
    results += evaluator.measure_references(sub_run.references)
    kept = [
        cell
        for cell in contenders
        if cell.learning_rate in (choices[cell.recipe.name].learning_rate, choices[cell.recipe.name].rate_of(cell.seed))
    ]
    _keep_checkpoints(evaluator.run, sub_run, kept)
    return results


def _outcome(evaluator: Evaluator, sub_run: SubRun, choices: Mapping[str, Choice], results: list[Result]) -> Outcome:
    """What it came to, with what a reader has to know before believing it; rows without a choice have no score."""
    failures = evaluator.failures
    assert failures is not None
    failed, warnings = failures.rows(sub_run, choices), failures.warnings(sub_run, choices)
    lost = unscored_facts(sub_run, failed)
    sub_run = _of_rows(failures.left(sub_run), choices)
    for method, lines in _warnings(evaluator, sub_run, choices).items():
        warnings[method] = [*warnings.get(method, ()), *lines]
    references = [evaluator.subject(row) for row in sub_run.references]
    validated = _with_base(evaluator, _validated(sub_run))
    tested = [*_with_base(evaluator, _contenders(sub_run, choices)), *references]
    outcome = Outcome(
        sub_run,
        [row for row in results if row.method not in failed],
        row_facts(evaluator.run, sub_run, _chosen(sub_run, choices)) | lost,
        dict(choices),
        warnings,
        evaluator.agreement(validated, "validation") + evaluator.agreement(tested, "test"),
        evaluator.among_members(tested),
        failed,
    )
    for method, told in outcome.warnings.items():
        for warning in told:
            log.info("%s%s: %s", evaluator.title, method, warning)  # below the board it is told to people
    return outcome


def _warnings(evaluator: Evaluator, sub_run: SubRun, choices: Mapping[str, Choice]) -> dict[str, list[str]]:
    """What to know before believing a row, by method."""
    run, budget = evaluator.run, sub_run.budget
    warnings = {choice.method: choice.warnings for choice in choices.values()}
    base, *chosen = _with_base(evaluator, _chosen(sub_run, choices))
    references = [evaluator.subject(row) for row in sub_run.references]
    for method, n in Counter(subject.method for subject in evaluator.unchanged(chosen, base)).items():
        warnings[method].append(
            f"all test answers of {n} of {len(sub_run.seeds)} seeds are identical to the base model's, so its learning "
            "rates may be too low for this model"
        )
    for method, note in [*budget.notes.items(), *misjudged(budget, took(run, sub_run)).items()]:
        warnings.setdefault(method, []).append(note)
    for recipe in sub_run.recipes:
        warnings[recipe.name] += start_warnings(run, sub_run, recipe)
    for subject in evaluator.unchanged(references, base):
        warnings[subject.method] = ["all its test answers are identical to the base model's"]
    if len(sub_run.seeds) == 1 and sub_run.protocol is None:
        for method, lines in within_seed.notes(evaluator, [*chosen, base, *references]).items():
            warnings.setdefault(method, []).extend(lines)
    return warnings


def _to_ask_again(outcome: Outcome) -> bool:
    """Whether the judge, being one that may say more another time, left answers unscored."""
    return not judge_of(outcome.plan.judge.spec).parallel and any(row.unscored for row in outcome.results)


# --- whom they are about ----------------------------------------------------------------------------------------------


def _of_rows(sub_run: SubRun, rows: Collection[str]) -> SubRun:
    """The sub-run with these of its methods only."""
    return replace(sub_run, recipes=tuple(recipe for recipe in sub_run.recipes if recipe.name in rows))


def _validated(sub_run: SubRun) -> list[Cell]:
    """The cells that choose the rates."""
    return [cell for cell in sub_run.all_cells() if cell.seed in sub_run.validated_seeds]


def _tested(sub_run: SubRun) -> list[Cell]:
    """The cells of the seeds that answer the test, at whatever rate."""
    return [cell for cell in sub_run.all_cells() if cell.seed in sub_run.seeds]


def _contenders(sub_run: SubRun, choices: Mapping[str, Choice]) -> list[Cell]:
    """The cells of the rates that may be chosen."""
    return [cell for cell in _tested(sub_run) if cell.learning_rate in choices[cell.recipe.name].contenders]


def _chosen(sub_run: SubRun, choices: Mapping[str, Choice]) -> list[Cell]:
    return [cell for cell in _tested(sub_run) if cell.learning_rate == choices[cell.recipe.name].learning_rate]


def _with_base(evaluator: Evaluator, cells: Sequence[Cell]) -> list[Subject]:
    """The base model and the cells, as models whose answers are wanted."""
    return [Subject(BASE, evaluator.run.row(BASE)), *evaluator.subjects(cells)]


def _keep_checkpoints(run: RunFolder, sub_run: SubRun, kept: Sequence[Cell]) -> None:
    """Delete those of all other cells, unless all are to be kept."""
    for cell in sub_run.all_cells() if sub_run.config.keep != "all" else ():
        if cell not in kept:
            run.cell(cell).drop_checkpoint()


# --- the run folder ---------------------------------------------------------------------------------------------------


def _keep_protocol(run: RunFolder, plan: Plan) -> None:
    """Write the protocol of a confirmation down, before anything is trained."""
    if plan.protocol and not run.protocol.exists:
        plan.protocol.write(run.protocol.path)
    if plan.protocol and plan.protocol.left_out:
        log.warning("comparisons left out, since they name rows not in this run: %s", ", ".join(plan.protocol.left_out))


def _opened(folder: RunFolder, sub_run: SubRun, described: Description) -> AbstractContextManager[Description]:
    """The sub-run's folder at work; of a run that is one sub-run, it is already."""
    if not sub_run.folder:
        return nullcontext(described)
    return folder.opened(sub_run.config.model_copy(update={"out": folder.path}), describe(sub_run))


def _note_failed(run: RunFolder, outcome: Outcome) -> None:
    """Write down which rows have no score, if any."""
    if outcome.failed:
        Failed(rows=outcome.failed).write(run.failed.path)
    else:
        run.failed.path.unlink(missing_ok=True)


def _titles(plan: Plan) -> list[str]:
    """How progress bars begin."""
    n = len(plan.sub_runs)
    return [f"{i}/{n} {one.folder} " if n > 1 else "" for i, one in enumerate(plan.sub_runs, start=1)]


def _note_training(evaluator: Evaluator, sub_run: SubRun, checked: Checked) -> None:
    """Log what is trained on."""
    for found in checked.layouts:
        log.info("%s, seed %d: %d tokens, %d steps, %d unique examples", *vars(found).values())
    for recipe in sub_run.recipes if sub_run.budget.match_params else ():
        log.info("%s: rank %d", recipe.name, recipe.rank(sub_run.pair))
    log.info("%s, %s", sub_run.pair.dtype, sub_run.pair.batches)
    for note in checked.notes:
        log.info(note)
    for note in checked.beware:
        log.warning("pair '%s': %s", sub_run.pair.name, note)
    if checked.notes:
        log.warning("%d notes on the training data; see %s", len(checked.notes), evaluator.run.log)


def _reuse(old: RunFolder | None, evaluator: Evaluator, sub_run: SubRun) -> None:
    """Take over what an earlier run has of the cells, and say how many."""
    if old is None:
        return
    old = old.sub_run(sub_run)
    refused = adopt(old, evaluator.run, sub_run, quiet=evaluator.quiet, title=evaluator.title)
    for reason in refused:
        log.warning(reason)
    reused, cells = len(evaluator.run.reused().cells), len(sub_run.all_cells())
    told = f"{evaluator.title}{reused} of {cells} cells reused from {old.path}, {cells - reused} to train"
    log.info(told)
    say(told, quiet=evaluator.quiet)
