"""Tasks found, resolved and loaded: lm-eval task folders here, lm-eval's own tasks behind them."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast, get_args

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.fingerprint import digest
from sails_eval.core.paths import search_path
from sails_eval.core.records import Kind, Split
from sails_eval.core.remembered import remembered
from sails_eval.core.schema import check_name
from sails_eval.data.files import read_rows
from sails_eval.tasks.entries import Entry, read_entry, strings, yaml_files
from sails_eval.tasks.published import Card, card_of, fingerprint, sizes

logger = logging.getLogger(__name__)

_GROUP_KEYS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}


@dataclass(frozen=True)
class TaskInfo:
    """What is known of a task without loading it.

    `correct` names the per-document metric that tells whether an answer is right, where there is one. `data`
    is the folder of the task's own {validation,test}.jsonl, None where the documents come from elsewhere.
    `fingerprint` is a SHA-256 over its settings with all includes, the Python files they name, and the data
    files; documents from the hub are in it by name only. `card` is that of a published set. `max_new_tokens` bounds
    its answers where that is not as the task's YAML says. `code` is what runs as code and does not ship with this
    package.
    """

    name: str
    kind: Kind
    path: Path
    correct: str | None
    seen_in_training: bool
    has_validation: bool
    data: Path | None
    fingerprint: str
    card: Card | None = None
    max_new_tokens: int | None = None
    code: tuple[str, ...] = ()

    def answered_in(self, tokens: int | None) -> "TaskInfo":
        """The same task with answers of so many tokens at most; None: as its YAML says. Capability stays as it is."""
        if tokens is None or self.kind == "capability":
            return self
        return replace(self, max_new_tokens=tokens, fingerprint=digest([self.fingerprint, tokens]))


class TaskRow(NamedTuple):
    """A line of `tasks list`; a number of documents is None where only the hub knows it."""

    name: str
    kind: Kind
    validation: int | None
    test: int | None
    path: Path


class Fault(NamedTuple):
    """A task or group that cannot be used: what it is called, its file and why."""

    name: str
    path: Path
    text: str


def find_tasks(extra: tuple[Path, ...] = ()) -> dict[str, TaskInfo]:
    """Every usable task in the bundled folder, in `./tasks` and in `extra`, by name, and a warning for every other."""
    tasks, faults = survey(extra)
    for fault in faults:
        logger.warning("task '%s' is left out: %s", fault.name, fault.text)
    return tasks


def task_folders(extra: tuple[Path, ...] = ()) -> list[Path]:
    """Where tasks are looked for. Raises UserError for a folder of --include-path that is not there."""
    for folder in extra:
        if not folder.is_dir():
            raise UserError(f"--include-path {folder}: no such folder; correct the path")
    return search_path("tasks", extra)


def survey(extra: tuple[Path, ...] = ()) -> tuple[dict[str, TaskInfo], list[Fault]]:
    """Every task as in `find_tasks`, and those that cannot be used: a broken YAML file, one without a kind, a name that
    stands for two things."""
    library = scan(task_folders(extra))
    tasks, faults = {}, dict(library.faults)
    for name, entry in sorted(library.tasks.items()):
        try:
            if name not in faults:
                tasks[name] = task_info(entry)
        except UserError as error:
            faults[name] = Fault(name, entry.path, str(error))
    return tasks, list(faults.values())


def resolve_tasks(names: Iterable[str], extra: tuple[Path, ...] = ()) -> list[TaskInfo]:
    """The tasks of these names, groups and tags expanded, each once, in the order named.

    Names that no task folder has are looked up among lm-eval's own tasks, an index that takes seconds to build; those
    count as `capability` unless their metadata says otherwise. Raises UserError for unknown names, and as `find_tasks`.
    """
    names, library = list(names), scan(task_folders(extra))
    ours = library.names() | library.faults.keys()
    if strange := [name for name in names if name not in ours]:
        known = ours | lm_eval_names()  # so that the index is made for names that are in it, and for no others
        for name in strange:
            if name not in known:
                raise unknown("task", name, get_close_matches(name, known, n=3, cutoff=0.75) or ours)
    if any(library.lacks(name) for name in names):
        library = library.over(_lm_eval_library())
    found: dict[str, TaskInfo] = {}
    for name in names:
        for entry in library.expand(name):
            found.setdefault(entry.name, task_info(entry, "capability" if entry.name not in ours else None))
    return list(found.values())


def describe(tasks: Iterable[TaskInfo]) -> list[TaskRow]:
    """The lines of `tasks list`."""

    def counts(task: TaskInfo) -> tuple[int | None, int | None]:
        if task.data is None:
            return (None, None) if task.card is None else sizes(task.card)
        files = [task.data / f"{split}.jsonl" for split in ("validation", "test")]
        validation, test = (len(read_rows(file)) if file.exists() else 0 for file in files)
        return validation, test

    return [TaskRow(task.name, task.kind, *counts(task), task.path) for task in tasks]


@dataclass
class Library:
    """Tasks by name; groups and tags as the list of what they hold (names, or mappings that may override).

    `faults` are files that cannot be read, called as they are, and names that stand for two things.
    """

    tasks: dict[str, Entry] = field(default_factory=dict)
    groups: dict[str, list[Any]] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)

    def add(self, entry: Entry) -> None:
        if entry.is_group:
            self.groups.setdefault(entry.name, []).append(entry.config)
            return
        self.tasks[entry.name] = entry
        tags = entry.config.get("tag") or []
        for tag in [tags] if isinstance(tags, str) else tags:
            self.groups.setdefault(tag, []).append(entry.name)

    def names(self) -> set[str]:
        return self.tasks.keys() | self.groups.keys()

    def lacks(self, name: str, within: tuple[str, ...] = ()) -> bool:
        """Whether a group holds a task, by its name, that is not here."""
        if name in self.tasks or name in self.faults or name in within:
            return False
        members = [task for member in self.groups.get(name, []) for task in _members(member)]
        inner = (*within, name)
        return name not in self.groups or any(isinstance(task, str) and self.lacks(task, inner) for task in members)

    def over(self, other: "Library") -> "Library":
        """Both, this one's where a name is in both; as lm-eval does it with folders over its own tasks."""
        return Library(other.tasks | self.tasks, other.groups | self.groups, self.faults)

    def expand(self, name: str, within: tuple[str, ...] = ()) -> Iterator[Entry]:
        """The task of a name, or those of a group. Raises UserError for one that is not there or cannot be used."""
        if name in self.faults:
            raise UserError(self.faults[name].text)
        if name in within:
            raise UserError(
                f"group '{name}' contains itself ({' > '.join((*within, name))}); take it out of one of them"
            )
        if name in self.tasks:
            yield self.tasks[name]
            return
        if name not in self.groups:
            raise unknown("task in a group", name, self.tasks)
        for member in self.groups[name]:
            yield from self._expand_member((*within, name), member)

    def _expand_member(self, within: tuple[str, ...], member: Any) -> Iterator[Entry]:
        if isinstance(member, str):
            yield from self.expand(member, within)
            return
        if overrides := member.keys() - _GROUP_KEYS:
            changed = ", ".join(sorted(map(str, overrides)))
            raise UserError(
                f"group '{within[-1]}' changes settings of its tasks ({changed}), which is not supported; name its "
                "tasks one by one, or write YAML files of your own that include them"
            )
        for inner in _members(member):
            yield from self._expand_member(within, inner)


def _members(member: Any) -> list[Any]:
    """What a member of a group holds: itself, if it is a name."""
    if isinstance(member, str):
        return [member]
    held = member.get("task") or member["group"]
    return [held] if isinstance(held, str) else list(held)


def scan(roots: Iterable[Path]) -> Library:
    """The tasks and groups of the YAML files under these folders; what cannot be used is among the `faults`."""
    library = Library()
    files = {path.resolve(): (path, root) for root in roots for path in yaml_files(root)}
    # each file once, although one root may lie in another
    broken = []
    for path, root in files.values():
        try:
            if (entry := read_entry(path, root)) is not None:
                _add(library, entry)
        except UserError as error:
            broken.append(Fault(path.stem, path, str(error)))
    for fault in broken:  # called as its file is, unless a task that can be read is called so
        name = str(fault.path) if fault.name in library.names() else fault.name
        library.faults[name] = fault._replace(name=name)
    for name in library.tasks.keys() & library.groups.keys():
        path = library.tasks[name].path
        text = f"{path}: '{name}' also names a group or tag; rename one of them"
        library.faults[name] = Fault(name, path, text)
    return library


def _add(library: Library, entry: Entry) -> None:
    clash = library.tasks.get(entry.name)
    if clash and _fingerprint(clash) == _fingerprint(entry):
        return  # a checkout's copy of a bundled task, say
    if clash:
        both = f"{clash.path} and {entry.path}"
        text = f"two files define the task '{entry.name}': {both}; rename one of them"
        library.faults[entry.name] = Fault(entry.name, entry.path, text)
    library.add(entry)


def lm_eval_names() -> set[str]:
    """What lm-eval's own tasks, groups and tags are called; at the first time that takes as long as their index."""
    return set(remembered("lm-eval-tasks", None, lambda: "\n".join(sorted(_lm_eval_library().names()))).split("\n"))


@cache
def _lm_eval_library() -> Library:
    from lm_eval import tasks as lm_eval_tasks

    library, root = Library(), Path(lm_eval_tasks.__file__).parent
    for entry in lm_eval_tasks.TaskManager().task_index.values():
        if entry.cfg is not None:  # tags have none, their tasks name them
            library.add(Entry(entry.yaml_path, root, entry.cfg))
    return library


def task_info(entry: Entry, default: Kind | None = None) -> TaskInfo:
    kind = cast(Kind, entry.metadata.get("kind", default))
    if kind not in get_args(Kind):
        raise UserError(f"{entry.path}: {kind_problem(kind)}")
    try:
        check_name(entry.name)
    except UserError as error:
        raise UserError(f"{entry.path}: key 'task': {error}") from error
    first_metric = entry.metrics[0] if kind == "capability" and entry.metrics else None
    return TaskInfo(
        name=entry.name,
        kind=kind,
        path=entry.path,
        correct=entry.metadata.get("correct", first_metric),
        seen_in_training=bool(entry.metadata.get("seen_in_training", False)),
        # Without a test split, lm-eval tests on the validation documents, and no rate can be chosen on them.
        has_validation=bool(entry.config.get("validation_split") and entry.config.get("test_split")),
        data=entry.data,
        fingerprint=_fingerprint(entry),
        card=card_of(entry.config, str(entry.path)),
        code=entry.code if default is None else (),  # lm-eval's own tasks are as trusted as lm-eval
    )


def warn_of_code(tasks: Iterable[TaskInfo]) -> None:
    """Say, once for each, which tasks run code that does not ship with this package."""
    for task in tasks:
        if task.code:
            _warn_of_code(task.name, ", ".join(task.code))


@cache
def _warn_of_code(name: str, code: str) -> None:
    text = "task '%s' runs code of its own: %s; go on only if you trust it (--trust-tasks turns this warning off)"
    logger.warning(text, name, code)


def kind_problem(kind: object) -> str:
    found = "no metadata.kind" if kind is None else f"metadata.kind is {kind!r}"
    return f"{found}; write `metadata: {{kind: harmful}}` (or safe, or capability)"


def _fingerprint(entry: Entry) -> str:
    """SHA-256 over settings, Python files and data, the same wherever the task's folder lies."""
    settings = json.dumps(entry.config, sort_keys=True, default=str)
    functions = [text for text in strings(entry.config) if Path(text).is_absolute()]
    python = {Path(text.rpartition(".")[0] + ".py") for text in functions}
    data = entry.data.glob("*.jsonl") if entry.data else []
    for folder in (entry.path.parent, entry.root):
        settings = settings.replace(str(folder.resolve()), "")
    digest = hashlib.sha256(settings.encode())
    if (card := card_of(entry.config, str(entry.path))) is not None:
        digest.update(fingerprint(card).encode())
    for file in [*sorted(filter(Path.is_file, python)), *sorted(data)]:
        digest.update(f"\n{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


def has_docs(info: TaskInfo, split: Split) -> bool:
    """Whether `load_task` can load this split."""
    return split == "test" or info.has_validation


def load_task(info: TaskInfo, split: Split) -> Any:
    """The lm-eval task whose documents are those of `split`, ready for `lm_eval.evaluator.evaluate`.

    Raises UserError where the task has no such split, or lm-eval cannot load it.
    """
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval.api.task").addFilter(_worth_saying)
    if not has_docs(info, split):
        raise UserError(f"{info.path}: no validation documents; add some, and a `validation_split`")
    splits = ("validation", "test") if info.has_validation else ("test",)
    for file in [info.data / f"{name}.jsonl" for name in splits] if info.data else []:
        if not file.exists():  # lm-eval reads every split, and would say KeyError
            raise UserError(f"{file}: no such file, but {info.path} names this split")
        if not file.read_bytes().strip():
            raise UserError(f"{file}: no documents; add some")
    try:
        loaded = TaskManager(include_defaults=False).load([str(info.path.resolve())])
    except Exception as error:  # whatever the functions of a user's task may raise
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise UserError(f"{info.path}: lm-eval cannot load it: {reason}") from error
    (task,) = loaded["tasks"].values()
    task.set_fewshot_seed(1234)  # as lm-eval's own CLI; without it every load draws other examples
    if info.max_new_tokens is not None:
        task.set_config(key="generation_kwargs", value={"max_gen_toks": info.max_new_tokens}, update=True)
    if split == "validation":
        task.has_test_docs = lambda: False  # lm-eval then evaluates the validation documents
    return task


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not what lm-eval says at every `custom_dataset`."""
    return "Custom kwargs can be passed" not in record.getMessage()


def prompts_of(info: TaskInfo, split: Split) -> list[str]:
    """What a split asks, in its order. Raises UserError as `load_task` does."""
    loaded = load_task(info, split)
    return [str(loaded.doc_to_text(doc)) for doc in loaded.eval_docs]
