"""Models of what people write in YAML and of what is kept as JSON, and errors that name the file and the key."""

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sails_eval.core import checksums
from sails_eval.core.errors import UserError, unknown
from sails_eval.core.files import read_bytes, read_json
from sails_eval.core.yaml_files import parse_yaml

SCHEMA = 1
"""Raised when a field of a record changes its meaning; files of 0.1.0 have none."""


class Frozen(BaseModel):
    """A model whose values never change and that knows all of its keys; its numbers are finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


KIND = re.compile(r"(constrained|function)-[^.]*|(literal|dict|list|tuple|set)\[.*\]|int|float|str|bool|none")
"""How pydantic names a kind that a value may be of, inside the place of a fault."""

SHORT = 40
"""The most characters of a faulty value that are repeated."""


RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
"""What Windows takes for a device, whatever the folder."""

LONGEST = 100
"""Characters of a name, and half of its bytes: file systems take 255 of them, endings included."""


def check_name(name: str) -> str:
    """The name as it is. Raises UserError unless it can be a folder's name, in a list between commas and in a:b."""
    plain = re.fullmatch(r"\w[\w.+=() -]*", name) and name == name.strip(" .")
    if not plain or len(name) > LONGEST or len(name.encode()) > 2 * LONGEST or RESERVED.fullmatch(name):
        raise UserError(
            f"{_shortened(name)!r} is not a valid name; use up to 100 letters, digits and . _ - + = ( ), beginning "
            "with a letter or digit, and no name that Windows reserves"
        )
    return name


def _shortened(text: str) -> str:
    return text if len(text) <= SHORT else text[:SHORT] + "…"


def _name(text: str) -> str:
    """As `check_name`, in the words of pydantic, which adds the key."""
    try:
        return check_name(text)
    except UserError as error:
        raise ValueError(error) from error


def as_name(text: str) -> str:
    """The plain name nearest to a text, for what gets its name from a path."""
    plain = re.sub(r"[^\w.+=() -]", "-", text).lstrip(" .+=()-")
    short = plain.encode()[: 2 * LONGEST].decode(errors="ignore")[:LONGEST].strip(" .")
    return f"model-{short}"[:LONGEST].rstrip("- .") if not short or RESERVED.fullmatch(short) else short


def _below(text: str) -> str:
    """A place below a folder. Raises ValueError where it may be elsewhere."""
    parts = text.split("/")
    if any(part in ("", ".", "..") or re.search(r"[\0-\x1f\\:]", part) for part in parts):
        raise ValueError(f"{_shortened(text)!r} is not a path inside the folder")
    return text


Name = Annotated[str, AfterValidator(_name)]
"""What the files and folders about a thing are named after."""

Below = Annotated[str, AfterValidator(_below)]
"""The path of a file or folder, from the folder of the file that says it."""


def validate(model: type[Model], values: dict[str, Any], *, where: str, flags: Collection[str] = ()) -> Model:
    """Check values against a model. Raises UserError with one line that names `where` and every faulty key.

    A key of `flags` was given on the command line, and is named as its flag.
    """
    try:
        return model.model_validate(values)
    except UserError as error:  # of a value that has a form of its own
        raise UserError(f"{where}: {error}") from error
    except ValidationError as error:
        faults = [_fault(key, list(found), model) for key, found in groupby(error.errors(), key=_key)]
        named = [(key.partition(".")[0], key, text) for key, text in faults]
        told = "; ".join(_named(key, text, flag=whole in flags) for whole, key, text in named)
        raise UserError(told if {whole for whole, *_ in named} <= {*flags} else f"{where}: {told}") from error


def _key(fault: Any) -> str:
    """The key by the names in the file: without those that pydantic gives to the kinds that a value may be of."""
    return ".".join(str(part) for part in fault["loc"] if not KIND.fullmatch(str(part)))


def _fault(key: str, found: Sequence[Any], model: type[BaseModel]) -> tuple[str, str]:
    """A key and what is wrong with it; where it may be of several kinds, what each of them would be."""
    first = found[0]
    if first["type"] == "extra_forbidden":
        *parents, _ = key.rpartition(".")
        return "", str(unknown("key", key, ["".join(parents) + name for name in _fields(model, first["loc"][:-1])]))
    if first["type"] == "value_error":  # a check of ours, which names the key if it is of the whole model
        return key, str(first["ctx"]["error"])
    told = (re.sub(r"(valid dictionary|instance of).*", "mapping", fault["msg"]) for fault in found)
    message, *others = dict.fromkeys(text.partition(", unable to parse")[0] for text in told)
    text = " or ".join(
        [message[0].lower() + message[1:], *(other.removeprefix("Input should be ") for other in others)]
    )
    given = first["input"]
    short = isinstance(given, str | int | float) and len(str(given)) <= SHORT
    return key, f"{text} (found {given!r})" if short else text


def _named(key: str, text: str, *, flag: bool) -> str:
    if flag:
        return f"--{key.partition('.')[0].replace('_', '-')}: {text}"
    return f"key '{key}': {text}" if key else text


def _fields(model: type[BaseModel], place: tuple[str | int, ...]) -> Iterable[str]:
    """The keys that a model knows at a place inside it, such as ('saes', 0)."""
    for part in place:
        if part in model.model_fields:  # else it is a place in a list, or a key of a mapping
            annotation = model.model_fields[str(part)].annotation
            kinds = (annotation, *get_args(annotation))
            model = next((kind for kind in kinds if hasattr(kind, "model_fields")), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def read_mapping(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file. Raises UserError naming the file."""
    try:
        if not path.exists():
            raise UserError(f"{path}: no such file")
        values = parse_yaml(str(path), read_bytes(path).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid YAML: not UTF-8 ({error})") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected keys and values, found {type(values).__name__}")
    if strange := [key for key in values if not isinstance(key, str)]:
        raise UserError(f"{path}: key {strange[0]!r} is not text; write it in quotes")
    return values


class Record(Frozen):
    """A JSON or YAML file, whose fields are those in memory.

    An unknown one is an error: it would be of a later version.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, ser_json_inf_nan="strings", allow_inf_nan=True
    )

    whole_in_0_1_0: ClassVar[str | None] = None
    """The field whose mapping was all of the file in 0.1.0."""

    schema_number: int = Field(default=SCHEMA, alias="schema", le=SCHEMA, description="of this file's fields")

    @model_validator(mode="before")
    @classmethod
    def _of_0_1_0(cls, values: dict[str, Any]) -> dict[str, Any]:
        whole = cls.whole_in_0_1_0
        return values if whole is None or whole in values else {whole: values}

    fix: ClassVar[str] = checksums.FIX
    """What to do about a file that is not as it was written."""

    def write(self, path: Path) -> None:
        """Write it, by rename and with its hash: as YAML if that is what its name says, else as JSON."""
        if path.suffix == ".yaml":
            told = self.model_dump(mode="json", by_alias=True)
            text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=120)
        else:
            text = self.model_dump_json(by_alias=True, indent=1) + "\n"
        checksums.write_checked(path, text)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises UserError, with the file's name, where it is not there, not as it was written, or something else."""
        checksums.check(path, cls.fix)
        values = read_mapping(path) if path.suffix == ".yaml" else read_json(path, missing="no such file")
        return validate(cls, values, where=str(path))
