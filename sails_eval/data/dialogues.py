"""Rows of many shapes, read into requests in their context and the answers: no turn is lost, what is odd is listed."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, takewhile
from typing import Any, Literal, get_args

from sails_eval.core.errors import UserError
from sails_eval.data.files import Row

Role = Literal["system", "user", "assistant"]

REQUESTS = ("prompt", "instruction", "goal")
RESPONSES = ("response", "completion", "output", "target")

HARMFUL = "harmful"
"""The group of examples whose request is harmful."""

# Anthropic's HH format: every turn opens with a blank line and its speaker.
_SPEAKERS: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")

# ShareGPT's names, where messages are called `conversations` and say from whom they are.
_SENDERS: dict[str, Role] = {"human": "user", "gpt": "assistant"}


@dataclass(frozen=True)
class Message:
    role: Role
    content: str


@dataclass(frozen=True)
class Example:
    """A context ending with a user turn, the response to learn and, in preference data, the rejected one."""

    messages: tuple[Message, ...]
    response: str
    rejected: str | None = None
    group: str = ""
    """The stratum that the example belongs to, from a column of this name."""

    @property
    def harmful(self) -> bool:
        """Whether its group says that the request is harmful; data need not tell."""
        return self.group.rpartition("/")[2] == HARMFUL

    @cached_property
    def id(self) -> str:
        """16 hex digits that depend on the texts only, wherever the example stands."""
        turns = [[message.role, message.content] for message in self.messages]
        content = json.dumps([turns, self.response, self.rejected], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @cached_property
    def label(self) -> str:
        """The `id` of request and response alone: the same whether or not a rejected answer is known, too."""
        return Example(self.messages, self.response).id

    @cached_property
    def rejected_label(self) -> str:
        """The same of request and rejected answer; empty where there is none."""
        return "" if self.rejected is None else Example(self.messages, self.rejected).id


def example_of(row: Row, odd: list[str]) -> Example | None:
    """The example that a row holds, or None and the reason in `odd`.

    The row holds `chosen` (or a response under another name) and `rejected` (raw HH text, lists of messages, strings
    beside a `prompt`, or strings with the request as their common beginning), or `messages` (also `conversations`; the
    last assistant turn is the response), or a request and its response under one of the names in `REQUESTS` and
    `RESPONSES`. Raises UserError naming file, line or row, and field of whatever is malformed.
    """
    group = str(row.values.get("group") or "")
    if any(row.values.get(field) is not None for field in ("chosen", "rejected")):
        return _preference(row, group, odd)
    if field := next((name for name in ("messages", "conversations") if row.values.get(name) is not None), ""):
        turns = _turns(row, field, "user")
        last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=len(turns) - 1)
        if last + 1 < len(turns):
            odd.append(f"{row.where}: turns after the last assistant turn were dropped")
        turns = turns[: last + 1]
    else:
        field = field_of(row, RESPONSES, "response")
        turns = _request(row, field_of(row, REQUESTS, "request")) + _turns(row, field, "assistant")
    answered = _split(row, field, turns, odd)
    return answered and Example(*answered, group=group)


def _preference(row: Row, group: str, odd: list[str]) -> Example | None:
    """The chosen response and, where it answers the same context differently, the rejected one."""
    named = _named(row, REQUESTS)
    request = _request(row, named) if named else []
    if not request and row.values.keys() <= {"chosen", "rejected", "group"}:
        row, request = _implicit(row)
    answers = []
    for field in (_named(row, ("chosen", *RESPONSES)) or "chosen", "rejected"):
        turns = _turns(row, field, "assistant")
        if turns and turns[0].role == "assistant":  # a response only; its context is the prompt
            turns = request + turns
        if [turn.role for turn in turns] == ["assistant"]:
            raise UserError(
                f"{row.where}: field '{field}': response without a request; add a field 'prompt', or "
                r"write the dialogue as '\n\nHuman: … \n\nAssistant: …'; the fields are "
                f"{', '.join(map(str, row.values))}"
            )
        answers.append(_split(row, field, turns, odd))
    chosen, rejected = answers
    if chosen is None:
        return None
    pair: str | None = None
    if rejected is not None and rejected[0] != chosen[0]:
        odd.append(f"{row.where}: chosen and rejected answer different contexts, so rejected was dropped")
    elif rejected is not None and rejected[1].strip() == chosen[1].strip():
        odd.append(f"{row.where}: chosen and rejected are identical, so rejected was dropped")
    elif rejected is not None:
        pair = rejected[1]
    return Example(*chosen, rejected=pair, group=group)


def _implicit(row: Row) -> tuple[Row, list[Message]]:
    """TRL's implicit prompt: of two plain texts, what both begin with is the request, up to its last blank."""
    both = [row.values.get(name) for name in ("chosen", "rejected")]
    texts = [text for text in both if isinstance(text, str) and not _is_dialogue(text)]
    shared = "".join(two[0] for two in takewhile(lambda two: len(set(two)) == 1, zip(*texts, strict=False)))
    prompt = shared.rpartition(" ")[0] if len(texts) == 2 else ""
    if not prompt.strip():
        return row, []
    answers = {name: text[len(prompt) :].strip() for name, text in zip(("chosen", "rejected"), texts, strict=True)}
    return Row(row.where, row.values | answers), [Message("user", prompt)]


def _split(row: Row, field: str, turns: list[Message], odd: list[str]) -> tuple[tuple[Message, ...], str] | None:
    """The context and the response that ends it; None, and the reason in `odd`, where there is none."""
    if not turns or turns[-1].role != "assistant" or not turns[-1].content.strip():
        odd.append(f"{row.where}: {field} was skipped: its final turn is not an answer, or is empty")
        return None
    merged = tuple(merge(turns))
    if len(merged) < len(turns):
        odd.append(f"{row.where}: {field}: consecutive turns of the same speaker were merged")
    context, response = merged[:-1], merged[-1].content
    speakers = [turn.role for turn in context if turn.role != "system"]
    if speakers[:1] != ["user"] or context[-1].role != "user" or not context[-1].content.strip():
        odd.append(f"{row.where}: {field} was skipped: the user's request is missing or empty")
        return None
    return context, response


def merge(turns: Iterable[Message]) -> Iterator[Message]:
    """One turn for each run of turns by the same speaker; chat templates want speakers to alternate."""
    for role, run in groupby(turns, key=lambda turn: turn.role):
        yield Message(role, "\n\n".join(turn.content for turn in run if turn.content.strip()))


def field_of(row: Row, names: tuple[str, ...], what: str) -> str:
    """The first of the names that the row has. Raises UserError listing those that it has instead."""
    if (named := _named(row, names)) is not None:
        return named
    raise UserError(
        f"{row.where}: no {what}; expected one of the fields {', '.join(names)} (or messages, or chosen and "
        f"rejected), found {', '.join(map(str, row.values)) or 'none'}; map other names with 'columns: {{{names[0]}: "
        "NAME}' beside 'data' (see: sails-eval docs data)"
    )


def _named(row: Row, names: Iterable[str]) -> str | None:
    """The first of the names that the row has; None where it has none."""
    return next((name for name in names if row.values.get(name) is not None), None)


def request_of(row: Row) -> tuple[Message, ...]:
    """A row's request without any answer; empty where it does not end with what a user says."""
    turns = tuple(merge(_request(row, field_of(row, REQUESTS, "request"))))
    return turns if turns and turns[-1].role == "user" and turns[-1].content.strip() else ()


def _request(row: Row, field: str) -> list[Message]:
    """The turns before the response; Alpaca's `input` belongs to its `instruction`."""
    turns = _turns(row, field, "user")
    if field == "instruction" and row.values.get("input"):
        return list(merge([*turns, *_turns(row, "input", "user")]))
    if turns and turns[-1] == Message("assistant", ""):  # HH prompts may end with a bare "Assistant:"
        return turns[:-1]
    return turns


def _turns(row: Row, field: str, speaker: Role) -> list[Message]:
    """A field's turns as they stand: raw HH text, a list of messages, or a plain string as `speaker`'s."""
    value = row.values.get(field)
    if isinstance(value, str):
        if not _is_dialogue(value):
            return [Message(speaker, value)]
        parts = _TURN.split(value.lstrip())[1:]
        return [Message(_SPEAKERS[name], text.strip()) for name, text in zip(parts[::2], parts[1::2], strict=True)]
    if not isinstance(value, list):
        found = "nothing" if value is None else type(value).__name__
        raise UserError(f"{row.where}: field '{field}': expected text or a list of messages, found {found}")
    return [_message(f"{row.where}: field '{field}': message {n}", item) for n, item in enumerate(value, start=1)]


def _message(where: str, item: Any) -> Message:
    if isinstance(item, dict) and "from" in item:
        item = {"role": _SENDERS.get(item["from"], item["from"]), "content": item.get("value")}
    if not isinstance(item, dict) or item.get("role") not in get_args(Role):
        raise UserError(f"{where} needs a 'role', one of {', '.join(get_args(Role))}")
    if not isinstance(item.get("content"), str):
        raise UserError(f"{where} needs text as its 'content'")
    return Message(item["role"], item["content"])


def _is_dialogue(text: str) -> bool:
    """Whether a text is in Anthropic's HH format."""
    return text.lstrip().startswith(("Human:", "Assistant:"))
