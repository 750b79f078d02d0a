"""What judges behind an endpoint have said, kept for good: one SQLite file for all runs of a user."""

import hashlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

from sails_eval.core.errors import UserError
from sails_eval.core.records import Completion, Verdict
from sails_eval.judges.answer_text import read_answer
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, ignore, is_final

PLACE = "SAILS_EVAL_CACHE"
"""The environment variable that names the file."""

OURS = 0x5A115
"""SQLite's 'application id' of the file, by which a foreign one is told."""


def cache_path() -> Path:
    """The file: $SAILS_EVAL_CACHE, or sails-eval/verdicts.sqlite in the user's folder for caches."""
    if place := os.environ.get(PLACE):
        return Path(place)
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "sails-eval" / "verdicts.sqlite"


def cache_key(fingerprint: str, kind: JudgedKind, completion: Completion) -> str:
    """A hash of all that determines a verdict, and of nothing else: no id, no method."""
    parts = [fingerprint, kind, completion.prompt, read_answer(completion.response)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def judge_cached(
    judge: Judge, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
) -> list[Verdict]:
    """What `judge.judge` says, but what the cache knows comes from there, and what is new goes there as it arrives.

    The judge is asked once where request and answer are the same; it learns no ids and no categories. Raises UserError
    as the judge does, or where the cache can't be used.
    """
    if not completions:
        return []
    fingerprint = judge.fingerprint
    keys = [cache_key(fingerprint, kind, completion) for completion in completions]
    same: dict[str, list[Completion]] = {}
    for key, completion in zip(keys, completions, strict=True):
        same.setdefault(key, []).append(completion)

    with closing(VerdictCache()) as cache:
        verdicts: dict[str, Verdict] = {}

        def tell(verdict: Verdict) -> None:
            verdicts[verdict.id] = verdict
            for completion in same[verdict.id]:
                on_verdict(replace(verdict, id=completion.id))

        def keep(verdict: Verdict) -> None:
            cache.put(verdict)
            tell(verdict)

        for verdict in cache.get(same).values():
            tell(verdict)
        firsts = {key: ones[0] for key, ones in same.items() if key not in verdicts}
        if firsts:
            judge.judge(kind, [Completion(key, one.prompt, one.response, "") for key, one in firsts.items()], keep)
    return [replace(verdicts[key], id=completion.id) for key, completion in zip(keys, completions, strict=True)]


class VerdictCache:
    """Final verdicts by the key of what was asked; to be closed in the end.

    It holds neither requests nor answers. Every verdict is committed when it is put in, so that a kill loses none,
    and any number of processes may read and write. An object belongs to the thread that made it. Raises UserError where
    the file can't be read or written, or is something else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or cache_path()
        with self._explained():
            if not self.path.exists():
                _create(self.path)
            self._connection = _connect(self.path)
            if self._connection.execute("PRAGMA application_id").fetchone() != (OURS,):
                raise sqlite3.DatabaseError("it is not a cache of verdicts")
            self._connection.execute("PRAGMA synchronous = NORMAL")  # a commit outlives the process, if not the power

    def close(self) -> None:
        self._connection.close()

    def get(self, keys: Iterable[str]) -> dict[str, Verdict]:
        """The verdicts that are known; their ids are the keys."""
        query = "SELECT key, verdict FROM verdicts WHERE key IN (SELECT value FROM json_each(?))"
        with self._explained():
            rows = self._connection.execute(query, [json.dumps(list(keys))])
            return {key: Verdict(key, **json.loads(verdict)) for key, verdict in rows}

    def put(self, verdict: Verdict) -> None:
        """Keep a verdict whose id is its key, if it is final: what is unscored may come out otherwise next time."""
        if not is_final(verdict):
            return
        said = {key: value for key, value in asdict(verdict).items() if key not in ("id", "raw") and value is not None}
        for vote in said.get("votes", []):
            vote["raw"] = None  # a reply may quote the answer
        with self._explained():
            self._connection.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (verdict.id, json.dumps(said)))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        where = f"cache of verdicts {self.path}"
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise UserError(f"{where} can't be used ({error}); set {PLACE} to another file") from error
        except sqlite3.DatabaseError as error:
            raise UserError(f"{where} is damaged ({error}); move it away, or set {PLACE} to another file") from error


def _connect(path: Path) -> sqlite3.Connection:
    """A writer waits a minute for the others, who each hold the file for less than a millisecond."""
    return sqlite3.connect(path, timeout=60, isolation_level=None)


def _create(path: Path) -> None:
    """Make an empty cache that gets its name once it is whole; whoever is first wins.

    What SQLite lays beside a file has that file's mode.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    os.close(handle)
    try:
        with closing(_connect(Path(name))) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA application_id = {OURS}")
            connection.execute("CREATE TABLE verdicts (key TEXT PRIMARY KEY, verdict TEXT NOT NULL) WITHOUT ROWID")
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink()
