"""The YAML file of a task or group as it stands: read, its keys checked, and which code of its own a task would run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sails_eval.core.errors import UserError, first_line
from sails_eval.core.paths import bundled
from sails_eval.core.schema import validate
from sails_eval.core.yaml_files import check_yaml


class Function(NamedTuple):
    """What a YAML file in `folder` calls by `!function MODULE.NAME`."""

    folder: Path
    spec: str

    @property
    def name(self) -> str:
        return self.spec.rpartition(".")[2]

    @property
    def file(self) -> Path | None:
        """The Python file beside the YAML file; None where the module is looked for among the installed packages."""
        file = (self.folder / f"{self.spec.rpartition('.')[0].replace('.', '/')}.py").resolve()
        return file if file.exists() else None

    @property
    def ours(self) -> bool:
        """Whether it ships with this package, or is an unchanged copy of what does (`tasks new` makes these)."""
        if self.file is None:
            return self.spec.startswith("sails_eval.")
        return self.file.read_bytes() == (bundled("tasks") / "testbed" / "utils.py").read_bytes()


@dataclass(frozen=True)
class Entry:
    """A YAML file with its includes merged; functions stand in it as absolute `path/to/module.name`."""

    path: Path
    root: Path
    config: dict[str, Any]
    functions: tuple[Function, ...] = ()

    @property
    def name(self) -> str:
        return str(self.config["group" if self.is_group else "task"])

    @property
    def is_group(self) -> bool:
        return "group" in self.config and "class" not in self.config

    @property
    def metadata(self) -> dict[str, Any]:
        metadata = self.config.get("metadata")
        return metadata if isinstance(metadata, dict) else {}

    @property
    def data(self) -> Path | None:
        folder = (self.config.get("dataset_kwargs") or {}).get("data_folder")
        loader = self.config.get("custom_dataset")
        return Path(loader).parent / folder if folder and isinstance(loader, str) else None

    @property
    def metrics(self) -> list[str]:
        listed = self.config.get("metric_list")
        if listed is None:
            from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

            return list(DEFAULT_METRIC_REGISTRY.get(self.config.get("output_type", "generate_until"), []))
        return [str(metric.get("metric")) for metric in listed]

    @property
    def code(self) -> tuple[str, ...]:
        """What runs as code when the task is loaded or asked and does not ship with this package: Python files, modules
        and keys with Jinja that does more than name a column."""
        if self.path.resolve().is_relative_to(bundled("tasks").resolve()):
            return ()
        python = [str(one.file or one.spec) for one in self.functions if not one.ours]
        metrics = [f"metric '{name}' of the library evaluate" for name in self._scripts()]
        return tuple(dict.fromkeys([*python, *metrics, *(f"the Jinja of '{key}'" for key in self._jinja())]))

    def _scripts(self) -> Iterator[str]:
        """Metrics that lm-eval does not have itself: it runs the script of that name, from a folder or the hub."""
        import lm_eval.api.metrics  # noqa: F401  # which registers them
        from lm_eval.api.registry import metric_registry

        computed = self.config.get("process_results") is not None  # by a function, so that names are only names
        for metric in () if computed else self.config.get("metric_list") or ():
            name = metric.get("metric")
            known = isinstance(name, str) and name in metric_registry
            if not known or metric.get("hf_evaluate"):
                yield str(name)

    def _jinja(self) -> Iterator[str]:
        from jinja2 import Environment, TemplateSyntaxError, nodes

        harmless = (nodes.Output, nodes.TemplateData, nodes.Name)
        for key, text in _templates(self.config):
            try:
                if not all(isinstance(node, harmless) for node in Environment().parse(text).find_all(nodes.Node)):
                    yield key
            except TemplateSyntaxError:
                yield key


class _Metric(BaseModel):
    metric: str


_Stop = Annotated[str, Field(min_length=1)]


class _Generation(BaseModel):
    model_config = ConfigDict(strict=True)  # lm-eval takes them as they stand: to Python, 'false' is true

    until: _Stop | list[_Stop] = []
    max_gen_toks: int | None = Field(default=None, ge=1)
    do_sample: bool | None = None
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=-1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    num_beams: int = Field(default=1, ge=1)
    num_return_sequences: Literal[1] = 1
    return_dict_in_generate: Literal[False] = False

    @model_validator(mode="after")
    def _samples_at_a_temperature(self) -> Self:
        if self.do_sample and not self.temperature:
            raise ValueError("do_sample needs a temperature above 0; add one, or set do_sample to false")
        return self


class _OwnData(BaseModel):
    data_folder: str | None = None


class _Metadata(BaseModel):
    correct: str | None = None


class _Keys(BaseModel):
    """The keys of lm-eval's task files that are looked at here; all others are lm-eval's alone."""

    task: str | list[str | dict[str, Any]] | None = None
    group: str | None = None
    tag: str | list[str] | None = None
    custom_dataset: str | None = None
    dataset_kwargs: _OwnData | None = None
    validation_split: str | None = None
    test_split: str | None = None
    output_type: str | None = None
    num_fewshot: int | None = Field(default=None, ge=0)
    repeats: int = Field(default=1, ge=1)
    generation_kwargs: _Generation | None = None
    metric_list: list[_Metric] | None = None
    metadata: _Metadata | None = None


def yaml_files(root: Path) -> list[Path]:
    """The YAML files under a folder, hidden ones (such as half-made task folders) left out."""
    found = sorted(root.rglob("*.yaml"))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(root).parts)]


def read_entry(path: Path, root: Path) -> Entry | None:
    """The task or group of a YAML file, None for one that is there to be included (its name begins with _).

    lm-eval itself passes over a broken file without a word. No code of the file's is run. Raises UserError naming the
    file, and the line or key where that is known.
    """
    functions: dict[Function, None] = {}
    try:
        _look_through(path, functions, set())
        config = _lm_eval_yaml().load_yaml(path, resolve_func=False)
    except UserError as error:
        told = str(error)
        raise UserError(told if told.startswith(str(path)) else f"{path}: not a valid task file: {told}") from error
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a valid task file: {' '.join(str(error).split())}") from error
    if config.keys() & {"task", "group"}:
        validate(_Keys, config, where=str(path))
        entry = Entry(path, root, config, tuple(functions))
        if not isinstance(config.get(key := "group" if entry.is_group else "task"), str):
            raise UserError(f"{path}: key '{key}' is not a name; write `{key}: NAME`")
        return entry
    if path.name.startswith("_"):
        return None
    raise UserError(f"{path}: no key 'task' or 'group'; add `task: NAME`, or _ before the name of an include")


def _look_through(path: Path, functions: dict[Function, None], seen: set[Path]) -> None:
    """Check a YAML file and what it includes, and collect the functions that they name. Raises UserError."""
    file = path.resolve()
    if file in seen:
        return  # lm-eval's parser says so
    seen.add(file)
    try:
        root = check_yaml(str(path), file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: not UTF-8 ({error})") from error
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path}: not a valid task file: expected keys and values")
    yaml.SafeLoader("").flatten_mapping(root)  # an include may come by a merge (<<)
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "!function":
            raise UserError(f"{path}:{key.start_mark.line + 1}: a key that is not a text; write a name")
        for scalar in _scalars(value):
            if scalar.tag == "!function":
                functions[Function(file.parent, scalar.value)] = None
            elif key.value == "include":
                _look_through(file.parent / scalar.value, functions, seen)


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    if isinstance(node, yaml.ScalarNode):
        yield node
    else:
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                yield from _scalars(part)


def strings(value: Any) -> Iterator[str]:
    """All texts in a value of YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def code_problems(entry: Entry) -> Iterator[str]:
    """What is wrong with the functions and templates that a task names, as far as that is seen without running them."""
    import ast

    from jinja2 import Environment, TemplateSyntaxError

    for function in entry.functions:
        where, file = f"!function {function.spec}", function.file
        if file is None:
            top = function.spec.partition(".")[0]
            if not top.isidentifier() or find_spec(top) is None:
                yield f"{where}: no such file in {function.folder}, and no such module is installed"
            continue
        source = file.read_bytes()
        try:
            ast.parse(source)
        except (SyntaxError, ValueError, RecursionError) as error:
            yield f"{file} is not valid Python: {first_line(error)}"
            continue
        if not re.search(rb"\b%s\b" % re.escape(function.name.encode()), source):
            yield f"{where}: {file} has no '{function.name}'"
    for key, text in _templates(entry.config):
        try:
            Environment().parse(text)
        except TemplateSyntaxError as error:
            yield f"key '{key}' is not valid Jinja: {error.message}"


def _templates(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The texts that lm-eval may render, each with its key."""
    for key, value in config.items():
        yield from ((str(key), text) for text in strings(value) if re.search(r"\{[{%#]", text))


@cache
def _lm_eval_yaml() -> Any:
    """The parser of lm-eval itself, for its `include` and `!function`; no public name leads to it.

    It is loaded from its file, as its package imports `datasets`: seconds, where a name may only be misspelt.
    """
    package = find_spec("lm_eval")
    assert package is not None and package.origin is not None
    file = Path(package.origin).parent / "tasks" / "_yaml_loader.py"
    spec = spec_from_file_location("sails_eval_lm_eval_yaml", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
