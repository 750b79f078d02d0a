"""Where data comes from, as people write it: a file, a data set on the hub, or a mixture of several by share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from sails_eval.core.schema import Frozen, read_mapping, validate

HUB = "hf:"

Scalar = str | int | float | bool


class Selection(Frozen):
    """Rows of a file or of a data set on the hub: hf:ORG/NAME[/CONFIG_OR_FOLDER][@REVISION][#SPLIT]."""

    data: str = Field(min_length=1, description="a file, or hf:ORG/NAME[/CONFIG_OR_FOLDER][@REVISION][#SPLIT]")
    columns: dict[str, str] = Field(
        default_factory=dict, description="its columns by the names expected here: {prompt: question}"
    )
    where: dict[str, Scalar | tuple[Scalar, ...]] = Field(
        default_factory=dict, description="use only rows whose column has this value, or one of these"
    )
    limit: int | None = Field(default=None, ge=1, description="use only the first N of those rows")

    @property
    def name(self) -> str:
        return self.data if self.data.startswith(HUB) else Path(self.data).name

    def __str__(self) -> str:
        where = [f"{column}={value}" for column, value in self.where.items()]
        return " ".join([self.data, *where, *([f"first {self.limit}"] if self.limit else [])])


class MixturePart(Selection):
    share: float = Field(gt=0, le=1, description="share of the mixture's examples, above 0 and up to 1")


class Mixture(Frozen):
    """Examples of several sources by share, as many as the scarcest source allows, or `examples` in all."""

    mix: tuple[MixturePart, ...] = Field(min_length=1, description="the sources, each with its share")
    examples: int | None = Field(
        default=None, ge=1, description="number of examples in all; default: as many as the scarcest source allows"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        total = sum(part.share for part in self.mix)
        if abs(total - 1) > 1e-6:
            shares = " + ".join(f"{part.share:g}" for part in self.mix)
            raise ValueError(f"key 'mix': the shares must sum to 1, but {shares} = {total:g}")
        return self

    @property
    def name(self) -> str:
        return " + ".join(f"{100 * part.share:g} % {part.name}" for part in self.mix)

    def __str__(self) -> str:
        return self.name


def _source(value: Any, info: ValidationInfo) -> Any:
    """The source that a text or a mapping names; anything else as it is. Raises UserError for a faulty mapping."""
    if isinstance(value, str):
        return Selection(data=value) if value.startswith(HUB) else Path(value)
    if isinstance(value, Mapping):
        return _described(dict(value), where=f"key '{info.field_name}'")
    return value


def _described(values: dict[str, Any], *, where: str) -> Selection | Mixture:
    return validate(Mixture, values, where=where) if "mix" in values else validate(Selection, values, where=where)


Data = Annotated[Path | Selection | Mixture, BeforeValidator(_source)]
"""What a pair's `train` and `contrast` can be."""

Unmixed = Annotated[Path | Selection, BeforeValidator(_source)]


ContrastExamples = Literal["sample", "all"] | Annotated[int, Field(ge=1)]
"""How many labelled examples an initialisation may contrast: those that its seed's cells train on, or so many of the
contrast data, drawn by the seed, or all of these, the same for all seeds."""


def origins(data: Path | Selection | Mixture) -> list[str]:
    """The files, and the data sets on the hub (hf:…), that a source is made of."""
    if isinstance(data, Path):
        return [str(data)]
    return [part.data for part in (data.mix if isinstance(data, Mixture) else [data])]


def as_data(text: str) -> Path | Selection | Mixture:
    """A source as it is given on the command line. Raises UserError as `starting_at` does."""
    return starting_at(Path.cwd(), Selection(data=text) if text.startswith(HUB) else Path(text))


def starting_at(here: Path, data: Path | Selection | Mixture) -> Path | Selection | Mixture:
    """The same source, with relative paths starting at `here`; a YAML file stands for the source that it describes.

    Raises UserError where such a file is faulty.
    """
    if isinstance(data, Path):
        path = (here / data).resolve()
        if path.suffix not in (".yaml", ".yml"):
            return path
        return starting_at(path.parent, _described(read_mapping(path), where=str(path)))
    if isinstance(data, Mixture):
        return data.model_copy(update={"mix": tuple(starting_at(here, part) for part in data.mix)})
    if data.data.startswith(HUB):
        return data
    return data.model_copy(update={"data": str((here / data.data).resolve())})
