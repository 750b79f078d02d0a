"""What judges behind an endpoint have said, kept for good: one SQLite file for all runs of a user."""

import hashlib
import json
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from sails_eval.core.errors import UserError, first_line
from sails_eval.core.records import Completion, Verdict, verdicts_of
from sails_eval.judges.answer_text import read_answer
from sails_eval.judges.base import Judge, JudgedKind, OnVerdict, ignore, is_final, is_transient

log = logging.getLogger(__name__)

PLACE = "SAILS_EVAL_CACHE"
"""The environment variable that names the file."""

CLAIMS = "CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL) WITHOUT ROWID"

OURS = 0x5A115
"""SQLite's 'application id' of the file, by which a foreign one is told."""


SILENCE = "unscored "
"""What the keys of those verdicts begin with that have no label."""

POLL = 0.5
"""Seconds between two looks at what other processes have asked for."""


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
    judge: Judge,
    kind: JudgedKind,
    completions: Sequence[Completion],
    on_verdict: OnVerdict = ignore,
    *,
    silence: bool = False,
) -> list[Verdict]:
    """What `judge.judge` says, but what the cache knows comes from there, and what is new goes there as it arrives.

    The judge is asked once where request and answer are the same, by whichever process is first: the others wait for
    its verdict. It learns no ids and no categories. With `silence` an answer that the judge left unscored is not asked
    about again either, unless the judge could not be heard; without, it is, whatever the cache has. Raises UserError as
    the judge does, or where the cache can't be used.
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
        waits = 0

        def tell(verdict: Verdict) -> None:
            verdicts[verdict.id] = verdict
            for completion in same[verdict.id]:
                on_verdict(replace(verdict, id=completion.id))

        def keep(verdict: Verdict) -> None:
            cache.put(verdict)
            if silence:
                cache.put_silence(verdict)
            tell(verdict)

        def look_up() -> list[str]:
            """Take what the cache knows; the keys about which it knows nothing."""
            for look in (cache.get, cache.silences) if silence else (cache.get,):
                for verdict in look(same.keys() - verdicts.keys()).values():
                    tell(verdict)
            return [key for key in same if key not in verdicts]

        while missing := look_up():
            if firsts := {key: same[key][0] for key in cache.claim(missing)}:
                judge.judge(kind, [Completion(key, one.prompt, one.response, "") for key, one in firsts.items()], keep)
                continue
            if not waits:
                log.warning("waiting for %d verdicts that another process is asking %s for", len(missing), judge.name)
            waits += 1
            time.sleep(POLL)
    return [replace(verdicts[key], id=completion.id) for key, completion in zip(keys, completions, strict=True)]


class VerdictCache:
    """Final verdicts by the key of what was asked; to be closed in the end.

    It holds neither requests nor answers. Every verdict is committed when it is put in, so that a kill loses none,
    and any number of processes may read and write. What one of them is about to ask it claims, so that no other does;
    a claim ends with `close`, and with the process. An object belongs to the thread that made it.
    Raises UserError where the file can't be read or written, or is something else.
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
            self._connection.execute(CLAIMS)
        self._owner = uuid4().hex
        self._alive = self._lock_of(self._owner)
        """Held as long as there are claims of this object: by that others know that it still works on them."""

    def close(self) -> None:
        if self._alive.is_locked:
            self._connection.execute("DELETE FROM claims WHERE owner = ?", [self._owner])
            self._alive.release()
            Path(self._alive.lock_file).unlink(missing_ok=True)
        self._connection.close()

    def get(self, keys: Iterable[str]) -> dict[str, Verdict]:
        """The verdicts that are known; their ids are the keys."""
        return self._read(keys, lambda verdict: verdict.label is not None)

    def silences(self, keys: Iterable[str]) -> dict[str, Verdict]:
        """The same of what `put_silence` kept."""
        found = self._read([SILENCE + key for key in keys], lambda verdict: verdict.unscored is not None)
        bare = [replace(verdict, id=key.removeprefix(SILENCE)) for key, verdict in found.items()]
        return {verdict.id: verdict for verdict in bare}

    def _read(self, keys: Iterable[str], sound: Callable[[Verdict], bool]) -> dict[str, Verdict]:
        query = "SELECT key, verdict FROM verdicts WHERE key IN (SELECT value FROM json_each(?))"
        with self._explained():
            rows = self._connection.execute(query, [json.dumps(list(keys))])
            found = verdicts_of([{"id": key, **json.loads(said)} for key, said in rows])
            if not all(map(sound, found)):
                raise ValueError("a verdict that lacks what it should have")
            return {verdict.id: verdict for verdict in found}

    def put(self, verdict: Verdict) -> None:
        """Keep a verdict whose id is its key, if it is final: what is unscored may come out otherwise next time."""
        if is_final(verdict):
            self._write(verdict)

    def put_silence(self, verdict: Verdict) -> None:
        """Keep that the judge left an answer unscored, apart from the verdicts, if it was heard."""
        if verdict.unscored is not None and not is_transient(verdict):
            self._write(replace(verdict, id=SILENCE + verdict.id))

    def _write(self, verdict: Verdict) -> None:
        said = {key: value for key, value in asdict(verdict).items() if key not in ("id", "raw") and value is not None}
        for vote in said.get("votes", []):
            vote["raw"] = None  # a reply may quote the answer
        with self._explained():
            self._connection.execute("INSERT OR IGNORE INTO verdicts VALUES (?, ?)", (verdict.id, json.dumps(said)))

    def claim(self, keys: Iterable[str]) -> list[str]:
        """Those of the keys that this object may ask about: no verdict is known, and nobody else is about to ask."""
        wanted = json.dumps(list(keys))
        with self._explained():
            if not self._alive.is_locked:
                self._alive.acquire()
            for (owner,) in self._connection.execute("SELECT DISTINCT owner FROM claims").fetchall():
                if owner != self._owner and self._is_gone(owner):
                    self._connection.execute("DELETE FROM claims WHERE owner = ?", [owner])
            self._connection.execute(
                "INSERT OR IGNORE INTO claims SELECT value, ? FROM json_each(?) "
                "WHERE value NOT IN (SELECT key FROM verdicts)",
                [self._owner, wanted],
            )
            mine = self._connection.execute(
                "SELECT claims.key FROM json_each(?) JOIN claims ON claims.key = value WHERE owner = ? ORDER BY id",
                [wanted, self._owner],
            )
            return [key for (key,) in mine]

    def _is_gone(self, owner: str) -> bool:
        """Whether the process that made an object has ended, however it did; the system gives its lock back."""
        lock = self._lock_of(owner)
        try:
            with lock.acquire(blocking=False):
                Path(lock.lock_file).unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def _lock_of(self, owner: str) -> FileLock:
        return FileLock(self.path.with_name(f".{self.path.name}.{owner}.lock"), mode=0o600)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        where = f"cache of verdicts {self.path}"
        try:
            yield
        except (OSError, sqlite3.OperationalError) as error:
            raise UserError(f"{where} can't be used ({error}); set {PLACE} to another file") from error
        except (sqlite3.DatabaseError, TypeError, ValueError) as error:
            raise UserError(
                f"{where} is damaged ({first_line(error)}); move it away, or set {PLACE} to another file"
            ) from error


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
