"""What comes back from a chat endpoint, and the verdict, the tokens or the failure that is in it."""

import json
import re
from contextlib import suppress
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from sails_eval.core.records import Verdict
from sails_eval.judges.answer_text import behind_reasoning
from sails_eval.judges.rubric import Rubric
from sails_eval.models import endpoint

_OPTION = r"(?P<quote>[\"'`]?)(?P<option>[a-z0-9](?:[a-z0-9_-]*[a-z0-9])?)(?P=quote)(?: ?(?:/|out of) ?(?P<scale>\d+))?"
_SAID = rf"[ \t*_]*{_OPTION}[ \t*_.]*"
WORD = re.compile(_SAID, re.IGNORECASE)
"""Nothing but an option, with the scale that it is on, if need be."""
LINE = re.compile(rf"[ \t*_]*verdict[ \t*_]*:{_SAID}$", re.IGNORECASE | re.MULTILINE)
"""A line that holds a verdict and nothing else. In quotation marks, it is somebody else's."""
OBJECT = re.compile(r"^[ \t]*(?:```\w*[ \t]*)?(?=\{)", re.MULTILINE)
"""What stands before a JSON object."""

REASONED = re.compile(r"\s*(?:[<◁\[]|analysis|commentary)")
"""How a reply begins that has a block of reasoning; the end of one may also be quoted."""

AS_JSON = 'Give the reply as JSON: {"verdict": "X"}'

AS_TEXT = "You may think first. Then give the reply as the last line, alone in that line: Verdict: X"

REFUSED = "the judge refused"

MODERATED = re.compile(r"content[ _-]?(filter|polic)|safety|flagged|moderat", re.IGNORECASE)
"""In an error or a reason to stop: that it is about this one request's content, whatever the status."""

MOST_TOKENS = 10**8
"""What no request can take; a bill of more is none."""

LAST = 2_000
"""Characters of a reply, counted from its end, that are read and kept: more than any verdict has."""

WHOLE = ("", "stop", "eos_token", "eos", "end_turn", "stop_sequence")
"""What endpoints call the end of a reply that is not cut off."""


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class ReplyChoice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Reply(BaseModel):
    """What is read of a reply; the client itself checks nothing of it."""

    choices: list[ReplyChoice] = Field(min_length=1)


class _Complaint(BaseModel):
    message: str


class _Failure(BaseModel):
    """What some endpoints send in place of a reply, as if all were well."""

    error: _Complaint


class _Tokens(BaseModel):
    prompt_tokens: int = Field(ge=0, le=MOST_TOKENS)
    completion_tokens: int = Field(ge=0, le=MOST_TOKENS)


class Bill(BaseModel):
    """What a reply says of its price, which not every endpoint does."""

    usage: _Tokens


class NoReplyError(Exception):
    """A request that got no reply and may get one later, after `retry_after` seconds if the endpoint says so."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


def choice_in(reply: bytes) -> ReplyChoice:
    """The reply in a response. Raises NoReplyError where there is none."""
    try:
        return _Reply.model_validate_json(reply).choices[0]
    except ValidationError as error:
        with suppress(ValidationError):
            told = endpoint.without_secrets(_Failure.model_validate_json(reply).error.message)
            raise NoReplyError(f"endpoint returned an error: {told.strip().partition(chr(10))[0][:200]}") from error
        what = "JSON" if error.errors()[0]["type"] == "json_invalid" else "message"
        raise NoReplyError(f"endpoint returned no {what}") from error


def verdict_in(reply: ReplyChoice, rubric: Rubric, id: str) -> Verdict:
    """What a reply says, or why it says nothing."""
    message, reason = reply.message, reply.finish_reason
    whole = (message.refusal or message.content or "").rstrip()
    raw = whole[-LAST:]
    if message.refusal or MODERATED.search(reason or ""):
        return Verdict(id, unscored=REFUSED, raw=endpoint.without_secrets(raw))
    unfinished = bool(whole) and behind_reasoning(whole) is None
    if unfinished or (reason or "").lower() not in WHOLE:
        return Verdict(id, unscored="the judge's reply was cut off", raw=endpoint.without_secrets(raw))
    said = option_in(whole, rubric)
    if said is None:
        return Verdict(
            id, unscored="the judge's reply is not one of the rubric's options", raw=endpoint.without_secrets(raw)
        )
    return rubric.verdict(id, said)


def option_in(reply: str, rubric: Rubric) -> str | None:
    """The option that a reply names as its verdict; None where it names none, or may mean another one.

    It counts where the reply is nothing else, in a JSON object that ends it, in its last line or, behind reasoning and
    if no other is named after it, in its first. A rubric of single words takes only the first of these.
    """

    def named(found: re.Match[str] | None) -> str | None:
        highest = max(filter(str.isdigit, rubric.options), key=int, default=None)
        valid = found and found["option"].lower() in rubric.options and found["scale"] in (None, highest)
        return found["option"].lower() if found and valid else None

    said = (behind_reasoning(reply) or "").strip()
    reasoned, opened = said != reply.strip(), REASONED.match(reply)
    option = named(WORD.fullmatch(said)) if opened or not reasoned else None
    if option or rubric.reply == "word":
        return option
    if (values := _json_in(said)) is not None:
        verdict, *rest = [named(WORD.fullmatch(value)) for value in values]
        return verdict if {*rest} <= {verdict, None} else None
    last = _without_fence(said).rpartition("\n")[2]
    if option := named(LINE.fullmatch(last)):
        return option
    first = LINE.match(said) if opened and reasoned else None
    option = named(first)
    further = "|".join(map(re.escape, {"verdict", *rubric.options} - {option}))
    return None if first and re.search(rf"\b(?:{further})\b", said[first.end() :], re.IGNORECASE) else option


def _json_in(text: str) -> list[str] | None:
    """The JSON object that ends a text, if any: what is under `verdict`, or "", and all its values."""
    values: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, str]:
        simple = [(key.lower(), str(value)) for key, value in pairs if isinstance(value, (str, int, float))]
        values.extend(value for _, value in simple)
        return dict(simple)

    start = OBJECT.search(text)
    with suppress(ValueError, RecursionError):
        if start:
            top = json.loads(_without_fence(text[start.end() :]), object_pairs_hook=note)
            return [top.get("verdict", ""), *values]
    return None


def _without_fence(text: str) -> str:
    """A text without the end of a block of code, and of itself."""
    return text.rstrip().removesuffix("```").rstrip()


def schema_of(rubric: Rubric) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"verdict": {"type": "string", "enum": list(rubric.options)}},
        "required": ["verdict"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}
