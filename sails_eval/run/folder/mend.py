"""What a run made and is not as it was written: deleted before the run is resumed, which makes it again."""

import logging
from collections.abc import Iterator
from pathlib import Path

from sails_eval.core.checksums import FIX, KEEP, check, fault, listing, note
from sails_eval.core.errors import UserError
from sails_eval.core.files import remove
from sails_eval.core.fingerprint import of_path
from sails_eval.run.folder.model_folder import ModelFolder, answers_of
from sails_eval.run.folder.run_folder import RunFolder

log = logging.getLogger(__name__)


def mend(run: RunFolder) -> None:
    """Delete what was damaged, edited or lost in part, with what was made of it; a warning says of each why.

    Raises UserError for a record that no command makes again, and where a finished run was changed whose files have no
    hashes of their own (older versions).
    """
    for one in run.with_sub_runs():
        for path in one.ends():
            _mend(path, [path])
        for path in sorted(file for file in one.path.glob("*.json") if file not in one.ends()):
            check(path, FIX if path == one.usage_file else KEEP)
        sealed = one.seal().hashes if one.seal.exists else {}
        for model in one.models():
            mend_model(model, sealed.get(one.relative(model.path)))
        for both in one.subspace_files():
            known = any(listing(path).is_file() for path in both)
            for path in both:
                _mend(path, list(both), known=known)


def mend_model(model: ModelFolder, was: str | None = None) -> None:
    """The same of what there is of a model; `was` is the hash of its folder when the run was finished, if it was."""
    files = list(model.stage_files())
    known = any(listing(path).is_file() for path in files)
    if files and not known and was is not None and of_path(model.path) != was:
        raise UserError(f"{model.path}: changed since the run was finished; {FIX}")
    for path in files:
        _mend(path, [model.path] if model.steps() else list(_made_of(model, path)), known=known)
    for path in model.stage_files():
        if path.parts[-4:-3] == ("verdicts",) and not answers_of(path).exists():
            _drop(path, [path], "the answers are missing")


def _made_of(model: ModelFolder, path: Path) -> Iterator[Path]:
    """What is to be made again together with a file of a model, in the order in which it is to be deleted."""
    if path in (model.checkpoint, model.record.path):
        yield from (model.record.path, model.checkpoint)
    elif path.parent.parent.name == "completions":
        yield from (file for file in model.stage_files() if file != path and answers_of(file) == path)
    yield path


def _mend(path: Path, with_it: list[Path], *, known: bool = False) -> None:
    """Delete a damaged file `with_it`. One without a hash is damaged where others beside it have theirs (`known`)."""
    if not path.exists():
        return
    told = fault(path)
    if told is None and path.suffix == ".jsonl" and path.stat().st_size == 0:
        told = "it is empty"
    if told is None and not listing(path).is_file():
        told = "its hash is missing" if known else None
        if not known:  # of an older version: as it is now it stays
            note(path)
    if told is not None:
        _drop(path, with_it, told)


def _drop(path: Path, with_it: list[Path], why: str) -> None:
    log.warning("%s: changed or damaged since it was written (%s); it is made again", path, why)
    for file in with_it:
        remove(file)
        remove(listing(file))
