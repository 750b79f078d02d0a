"""Whether a run is finished and unchanged: then its command, given again, has nothing to do."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import digest, of_code, of_path
from sails_eval.plan.plan import Plan, SubRun
from sails_eval.run.folder.records import Finished
from sails_eval.run.folder.run_folder import RunFolder


def asked(plan: Plan) -> str:
    """A hash of all that a run's files follow from: what was asked for, what that resolves to, and this package's code.

    Where the files go, and how many processes make them, is no part of it.
    """
    config = plan.config.model_dump(mode="json", exclude={"jobs", "out"})
    parts = [[one.pair.model_dump(mode="json"), one.calibration, _judge(one)] for one in plan.sub_runs]
    return digest([config, plan.identity.told(), parts, of_code()])


def _judge(one: SubRun) -> str:
    """The second judge, whose agreement with the first the board tells; it is no part of the identity."""
    return one.reference_judge.fingerprint if one.reference_judge else ""


def note_finished(run: RunFolder, plan: Plan, of: str) -> None:
    """Write down, last of all, what the run's files are; `of` is what `asked` said of the plan."""
    files = {run.relative(file): of_path(file) for file in _files(run, plan)}
    Finished(asked=of, files=files).write(run.finished.path)


def is_finished(run: RunFolder, plan: Plan, of: str) -> bool:
    """Whether the run's end was reached for the same plan, and no file, answer or checkpoint was changed since."""
    if not (run.exists and run.finished.exists):
        return False
    seals = [run.sub_run(one) for one in plan.sub_runs]
    with suppress(UserError):  # a damaged record, of which more is said when it is made again
        noted = run.finished()
        if noted.asked == of and _unchanged(run, noted.files):
            return all(one.seal.exists and _unchanged(one, one.seal().hashes) for one in seals)
    return False


def _unchanged(run: RunFolder, hashes: dict[str, str]) -> bool:
    paths = {run.path / name: was for name, was in hashes.items()}
    return all(path.exists() and of_path(path) == was for path, was in paths.items())


def _files(run: RunFolder, plan: Plan) -> Iterator[Path]:
    """What the run's end has written beside its models, cells.json among it, which has the hashes of these."""
    folders = {run.path, *(run.sub_run(one).path for one in plan.sub_runs)}
    folders |= {run.of_budget(one.size).path for one in plan.sub_runs if one.size}
    grows = {run.log.name, run.usage_file.name, run.finished.path.name}
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        yield from sorted(f for f in folder.iterdir() if f.is_file() and f.name[0] != "." and f.name not in grows)
