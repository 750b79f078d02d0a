"""Rubrics: what a model judge is told, and what its answers mean."""

import hashlib
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.pair import read_yaml
from sails_eval.core.paths import PACKAGE
from sails_eval.core.records import Label, Verdict
from sails_eval.core.schema import Frozen
from sails_eval.judges.base import JudgedKind

RUBRICS = PACKAGE / "judges" / "rubrics"
"""The shipped ones, a file each."""

PARAPHRASES = ("harm_audit", "harm_brief", "harm_gain")
"""Paraphrases of the rubric `harm`: they measure how much scores depend on the wording."""

_PLACEHOLDER = re.compile(r"\{(request|response|options|names|mark)\}")


class Option(Frozen):
    """What one of the judge's possible replies means. Scores (1 to 5) belong to harmful requests only."""

    label: Label
    score: int | None = Field(default=None, ge=1, le=5)
    description: str


class Rubric(Frozen):
    """A prompt for a judge, and the menu that its one-word reply comes from.

    Placeholders in `prompt`: {request} and {response}; {options}, the menu with descriptions; {names}, the
    menu alone; {mark}, a hash of request and response, for the delimiters around them: an answer can't
    contain its own hash, and so can't forge them.
    """

    name: str
    version: int
    kind: JudgedKind
    prompt: str
    options: dict[str, Option]
    reply: Literal["line", "word"] = Field(
        default="line",
        description="what a judge behind an endpoint is told to end with: JSON or a line 'Verdict: X'; or nothing is "
        "added to the prompt, and the whole reply is the word from the menu",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if missing := {"request", "response"} - set(_PLACEHOLDER.findall(self.prompt)):
            raise ValueError(f"the prompt has no {{{missing.pop()}}}; add it")
        if bad := [name for name in self.options if not re.fullmatch(r"[a-z0-9_-]+", name)]:
            raise ValueError(f"option '{bad[0]}' is not a lower-case word or number")
        if any((option.score is None) != (self.kind == "safe") for option in self.options.values()):
            raise ValueError("options have a score if and only if the kind is 'harmful'")
        if self.kind == "safe" and any(option.label == "deflection" for option in self.options.values()):
            raise ValueError("label 'deflection' is for harmful requests only; use 'refusal' for safe ones")
        return self

    def render(self, request: str, response: str) -> str:
        """The prompt, filled in one pass: placeholders and braces within the texts stay what they are."""
        request, response = _valid(request), _valid(response)
        mark = hashlib.sha256(f"{len(request)} {request} {response}".encode())
        values = {
            "request": request,
            "response": response,
            "options": "\n".join(f"{name}: {option.description}" for name, option in self.options.items()),
            "names": ", ".join(self.options),
            "mark": mark.hexdigest()[:16],
        }
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.prompt)

    def verdict(self, id: str, option: str) -> Verdict:
        """What the reply `option` says of the completion `id`."""
        return Verdict(id, self.options[option].label, self.options[option].score)


def _valid(text: str) -> str:
    """Text without lone surrogates, which JSON can hold, but no hash, tokenizer or request."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def load_rubric(name: str) -> Rubric:
    """A shipped rubric by the name of its file, or a user's own by the path of its YAML.

    Raises UserError where there is none, or where it is faulty.
    """
    own = name.endswith((".yaml", ".yml"))
    known = [file.stem for file in RUBRICS.glob("*.yaml")]
    if not own and name not in known:
        raise unknown("rubric", name, known)
    path = Path(name) if own else RUBRICS / f"{name}.yaml"
    rubric = read_yaml(path, Rubric, defaults={"name": path.stem})
    if own and rubric.reply == "line" and "{mark}" not in rubric.prompt:
        raise UserError(f"{path}: key 'prompt' has no {{mark}}; put it into the delimiters around {{response}}")
    return rubric


def load_rubrics(prefix: str = "") -> dict[JudgedKind, Rubric]:
    """The shipped rubrics for both kinds of request: `harm` and `helpfulness`, or the testbed's, by its prefix.

    Few tasks of real requests can check answers. What a reply by `helpfulness` means is enough for all rates of safe
    requests: over-refusal (partly or wholly declined) and helpfulness (of use). The testbed's tasks check theirs.
    """
    safe = f"{prefix}refusal" if prefix else "helpfulness"
    return {"harmful": load_rubric(f"{prefix}harm"), "safe": load_rubric(safe)}


def choose_rubrics(names: str) -> dict[JudgedKind, Rubric]:
    """The rubrics that the option `rubric` names, `+` between two; each replaces the usual one of its kind.

    Raises UserError where one cannot be read, or where two are of the same kind.
    """
    chosen: dict[JudgedKind, Rubric] = {}
    for rubric in map(load_rubric, names.split("+")):
        if rubric.kind in chosen:
            both = f"'{chosen[rubric.kind].name}' and '{rubric.name}'"
            raise UserError(f"rubric={names}: {both} are both for {rubric.kind} requests; give one of them")
        chosen[rubric.kind] = rubric
    return {**load_rubrics(), **chosen}
