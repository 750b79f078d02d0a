"""Whatever is imported is declared: nothing works only because another package happens to need the same."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"sails_eval", "sails_eval_example", "tests", "scripts", "stand_in"}  # the last is examples/stand_in.py


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*, dev: bool) -> set[str]:
    """The packages that pyproject.toml names for the package itself and its extras, or for work on it, too."""
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(line for name in extras if dev or name != "dev" for line in extras[name])]
    return {normal(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in wanted}


def imported(file: Path) -> Iterator[str]:
    """The top-level modules that a file imports, wherever in it, from outside this package and the standard library."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
        yield from {name.partition(".")[0] for name in names} - sys.stdlib_module_names - OWN


def undeclared(folders: list[str], *, dev: bool) -> dict[str, str]:
    """What is imported there and not declared, each with a file that does so."""
    known, offered = declared(dev=dev), packages_distributions()
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    assert files
    return {
        module: str(file.relative_to(ROOT))
        for file in files
        for module in imported(file)
        if not known & {normal(name) for name in (module, *offered.get(module, ()))}
    }


@pytest.mark.parametrize(
    ("folders", "dev"), [(["sails_eval", "tasks"], False), (["tests", "benchmarks", "examples", "scripts"], True)]
)
def test_every_import_is_declared(folders: list[str], dev: bool) -> None:
    assert undeclared(folders, dev=dev) == {}
