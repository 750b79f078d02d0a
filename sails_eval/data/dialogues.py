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
from sails_eval.core.files import parse_json
from sails_eval.data.files import Row

Role = Literal["system", "user", "assistant"]

REQUESTS = ("prompt", "instruction", "goal")
RESPONSES = ("response", "completion", "output", "target")
DIALOGUES = ("messages", "conversations")

HARMFUL = "harmful"
"""The group of examples whose request is harmful."""

# Anthropic's HH format: every turn opens with a blank line and its speaker; others say User for Human.
_SPEAKERS: dict[str, Role] = {"Human": "user", "User": "user", "Assistant": "assistant"}

# What may stand before a turn in formats that are not read: `Q:`, `### Human:`, `USER:`.
_LABEL = re.compile(r"^\W{0,5}(\w{1,20}):", re.MULTILINE)

# ShareGPT's names, where messages are called `conversations` and say from whom they are.
_SENDERS: dict[str, Role] = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}

_MESSAGES = re.compile(r"""\s*\[\s*\{\s*(["'])(?:role|content|from|value)\1\s*:""")
"""How messages begin that were written into a text."""

_TEXT_PARTS = ("text", "input_text", "output_text")
"""What the kinds of a message's parts that hold text are called."""


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


class _UnusableError(Exception):
    """Why nothing can be learnt from a row, though the file is in order."""


def example_of(row: Row, odd: list[str]) -> Example | None:
    """The example that a row holds, or None and the reason in `odd`.

    The row holds `chosen` (or a response under another name) and `rejected` (raw HH text, lists of messages, strings
    beside a `prompt`, or strings with the request as their common beginning), or `messages` (also `conversations`; the
    last assistant turn is the response), or a request and its response under one of the names in `REQUESTS` and
    `RESPONSES`; `system` and Alpaca's `history` come before it. Raises UserError naming file, line or row, and field of
    whatever is malformed.
    """
    try:
        return _example(row, odd)
    except _UnusableError as reason:
        odd.append(f"{row.where}: {reason}")
        return None


def _example(row: Row, odd: list[str]) -> Example | None:
    group = str(row.values.get("group") or "")
    if any(row.values.get(field) is not None for field in ("chosen", "rejected")):
        return _preference(row, group, odd)
    if field := next((name for name in DIALOGUES if row.values.get(name) is not None), ""):
        turns = _opened(row, _turns(row, field, "user"))
        last = max((i for i, turn in enumerate(turns) if turn.role == "assistant"), default=len(turns) - 1)
        if last + 1 < len(turns):
            odd.append(f"{row.where}: turns after the last assistant turn were dropped")
        turns = turns[: last + 1]
    else:
        field = _field(row, RESPONSES, "response")
        turns = _request(row, _field(row, REQUESTS, "request")) + _turns(row, field, "assistant")
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
        elif not request:
            turns = _opened(row, turns)
        if [turn.role for turn in turns] == ["assistant"]:
            raise _UnusableError(
                f"field '{field}': response without a request; add a field 'prompt', or "
                r"write the dialogue as '\n\nHuman: … \n\nAssistant: …'; the fields are "
                f"{', '.join(map(str, row.values))}"
            )
        answers.append(_split(row, field, turns, odd))
    chosen, rejected = answers
    if chosen is None:
        return None
    asked = chosen[0][-1].content.strip()
    if len(asked) > 1 and all(answer and answer[1].lstrip().startswith(asked) for answer in answers):
        odd.append(f"{row.where}: chosen and rejected both repeat the request, which is learnt with them")
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
    labels = _LABEL.findall(prompt)
    if len(set(labels)) > 1 and prompt.rstrip().endswith(f"{labels[-1]}:"):
        raise _UnusableError(
            f"the speakers {' and '.join(dict.fromkeys(labels))} are not known; write the dialogue as "
            r"'\n\nHuman: … \n\nAssistant: …', or as messages"
        )
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
    try:
        return _field(row, names, what)
    except _UnusableError as reason:
        raise UserError(f"{row.where}: {reason}") from None


def _field(row: Row, names: tuple[str, ...], what: str) -> str:
    """The first of the names under which the row has something, else that it has at all."""
    if (named := _named(row, names)) is not None:
        return named
    if empty := [name for name in names if name in row.values]:
        return empty[0]
    raise _UnusableError(
        f"no {what}; expected one of the fields {', '.join(names)} (or messages, or chosen and "
        f"rejected), found {', '.join(map(str, row.values)) or 'none'}; map other names with 'columns: {{{names[0]}: "
        "NAME}' beside 'data' (see: sails-eval docs data)"
    )


def _named(row: Row, names: Iterable[str]) -> str | None:
    """The first of the names that the row has; None where it has none."""
    return next((name for name in names if row.values.get(name) is not None), None)


def request_of(row: Row, odd: list[str]) -> tuple[Message, ...]:
    """A row's request without any answer; empty, and the reason in `odd`, where it does not end with what a user says.

    Raises UserError as `example_of` does, and where a row has no field for a request.
    """
    try:
        turns = tuple(merge(_request(row, field_of(row, REQUESTS, "request"))))
    except _UnusableError as reason:
        odd.append(f"{row.where}: {reason}")
        return ()
    if turns and turns[-1].role == "user" and turns[-1].content.strip():
        return turns
    odd.append(f"{row.where}: skipped: the user's request is missing or empty")
    return ()


def _request(row: Row, field: str) -> list[Message]:
    """The turns before the response; Alpaca's `input` belongs to its `instruction`."""
    turns = _turns(row, field, "user")
    if field == "instruction" and row.values.get("input"):
        turns = list(merge([*turns, *_turns(row, "input", "user")]))
    elif turns and turns[-1] == Message("assistant", ""):  # HH prompts may end with a bare "Assistant:"
        turns = turns[:-1]
    return _opened(row, turns)


def _opened(row: Row, turns: list[Message]) -> list[Message]:
    """The turns behind what columns of their own say: the system prompt `system`, and `history`, pairs of earlier
    requests and answers."""
    before = []
    if row.values.get("system"):
        before = [turn for turn in _turns(row, "system", "system") if turn.content.strip()]
    earlier = row.values.get("history") or []
    for pair in earlier if isinstance(earlier, list) else [earlier]:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise _UnusableError("field 'history' was not read: expected pairs of a request and its answer")
        before += [Message("user", pair[0]), Message("assistant", pair[1])]
    if before and turns and turns[0].role == "system":
        raise _UnusableError(
            "a system prompt stands in the dialogue and in a column 'system' or 'history'; leave one out"
        )
    return [*before, *turns]


def _turns(row: Row, field: str, speaker: Role) -> list[Message]:
    """A field's turns as they stand: raw HH text, a list of messages, or a plain string as `speaker`'s."""
    value = listed(row.values.get(field))
    if value is None:
        return []
    if isinstance(value, str):
        if _MESSAGES.match(value):
            raise _UnusableError(
                f"field '{field}' holds messages in Python's notation; save it as JSON lines, or Parquet"
            )
        text = re.sub("\r\n?", "\n", value).lstrip()
        if (names := _speakers(text)) is None:
            return [Message(speaker, value)]
        parts = re.split(rf"(?:\A|\n\n)({names}):", text)[1:]
        return [Message(_SPEAKERS[name], said.strip()) for name, said in zip(parts[::2], parts[1::2], strict=True)]
    if not isinstance(value, list):
        raise UserError(
            f"{row.where}: field '{field}': expected text or a list of messages, found {type(value).__name__}"
        )
    return [_message(row, f"field '{field}': message {n}", item) for n, item in enumerate(value, start=1)]


def _message(row: Row, what: str, item: Any) -> Message:
    """A message of a list. Raises _UnusableError where nobody known says it, or it is not text alone."""
    if not isinstance(item, dict):
        raise UserError(f"{row.where}: {what}: expected a mapping with 'role' and 'content'")
    if "from" in item:
        item = {"role": _SENDERS.get(str(item["from"]), item["from"]), "content": item.get("value")}
    role, content = item.get("role"), item.get("content")
    if role not in get_args(Role):
        found = f" (found {role!r:.40})" if role else ""
        raise _UnusableError(f"{what} needs a 'role', one of {', '.join(get_args(Role))}{found}")
    if item.get("tool_calls") or item.get("function_call"):
        raise _UnusableError(f"{what} calls a tool; only text is read")
    if isinstance(content, list):
        content = "".join(_part(what, part) for part in content)
    if not isinstance(content, str):
        raise _UnusableError(f"{what} needs text as its 'content'")
    return Message(role, content)


def _part(what: str, part: Any) -> str:
    """The text of a part of a message."""
    if isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else None
    raise _UnusableError(f"{what} has a part that is no text{f' (type {kind})' if kind else ''}; only text is read")


def listed(value: Any) -> Any:
    """The messages that a text holds as JSON, as in a column of a CSV; anything else as it is."""
    if not isinstance(value, str) or not _MESSAGES.match(value):
        return value
    try:
        return parse_json("", value)
    except UserError:
        return value


def _is_dialogue(text: str) -> bool:
    """Whether a text is in Anthropic's HH format, or holds messages."""
    return bool(_MESSAGES.match(text)) or _speakers(re.sub("\r\n?", "\n", text).lstrip()) is not None


def _speakers(text: str) -> str | None:
    """The speakers of a text in Anthropic's HH format, as a pattern; None for any other text."""
    if text.startswith(("Human:", "Assistant:")):
        return "Human|Assistant"
    return "User|Assistant" if text.startswith("User:") and "\n\nAssistant:" in text else None
