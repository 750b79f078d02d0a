"""Models that `sails-eval models fetch` can get: where they come from, and where a converted one is kept."""

from functools import cache
from pathlib import Path

from pydantic import Field

from sails_eval.core.errors import unknown
from sails_eval.core.paths import made
from sails_eval.core.schema import Frozen, read_mapping, validate

TABLE = Path(__file__).with_name("fetchable.yaml")


class Fetchable(Frozen):
    """A model on the hub that a package on PyPI holds, too, as a GGUF file."""

    name: str
    description: str
    licence: str
    hub: str = Field(description="id on the hub")
    revision: str = Field(description="commit on the hub")
    hub_sha256: str = Field(description="of model.safetensors at that commit")
    package: str = Field(description="package on PyPI")
    version: str
    megabytes: int = Field(description="size of its wheel")
    wheel_sha256: str
    gguf: str = Field(description="file in the wheel")
    gguf_sha256: str

    @property
    def folder(self) -> Path:
        """Where the converted model is kept."""
        return made() / "models" / self.name

    @property
    def command(self) -> str:
        return f"sails-eval models fetch {self.name}"


@cache
def fetchables() -> dict[str, Fetchable]:
    """All of them, by name."""
    return {
        name: validate(Fetchable, {"name": name, **values}, where=f"{TABLE}, {name}")
        for name, values in read_mapping(TABLE).items()
    }


def fetchable(name: str) -> Fetchable:
    """The one of that name. Raises UserError where there is none."""
    if name not in fetchables():
        raise unknown("model", name, fetchables())
    return fetchables()[name]


def located(model: str) -> str:
    """A model by its name here as the folder of the converted one, if it was fetched, else as its hub id; any other as
    it is."""
    if (one := fetchables().get(model)) is None:
        return model
    return str(one.folder) if one.folder.is_dir() else one.hub


def hint(model: str) -> str:
    """A clause for the message that a model is not here: how to fetch it, or to name it where only pairs have names."""
    for one in fetchables().values():
        if model == one.hub:
            return f"; or give: {one.command}"
        if model == one.name:
            return f"; give --pair {model}, or the folder that is printed by: {one.command}"
    return ""
