"""The judge `openai:MODEL`: a model behind any endpoint that speaks the OpenAI chat API."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from json import JSONDecodeError
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from sails_eval.errors import UserError, unknown
from sails_eval.fingerprint import digest
from sails_eval.judges.base import NO_REPLY, JudgedKind, OnVerdict, ignore
from sails_eval.judges.rubric import Rubric, load_rubrics
from sails_eval.records import Completion, Verdict

VERDICT = re.compile(
    r"^[\s{*_`\"]*verdict[*_`\"]*\s*:[\s*_`\"]*([a-z0-9-]+)[*_`\"}.\s]*$", re.IGNORECASE | re.MULTILINE
)
"""A line that holds a verdict and nothing else, as JSON or in words. The last one of a reply counts."""

AS_JSON = 'Give the reply as JSON: {"verdict": "X"}'
AS_TEXT = "You may think first. Then give the reply as the last line, alone in that line: Verdict: X"
MAX_TOKENS = 1024


class ApiJudge:
    """A chat model, asked about each completion by itself, `concurrency` of them at once, at temperature 0.

    The client reads OPENAI_API_KEY and OPENAI_BASE_URL. It retries rate limits, server errors and timeouts
    (`timeout` is in seconds) `max_retries` times. Replies are constrained by a JSON schema until the endpoint
    says that it can't do that; from then on they are read from text. In the same way a model that takes no
    temperature is asked without one.
    """

    parallel = False

    def __init__(
        self,
        model: str,
        *,
        rubrics: Mapping[JudgedKind, Rubric] | None = None,
        concurrency: int = 16,
        max_retries: int = 6,
        timeout: float = 120.0,
    ) -> None:
        self.model = model
        self.name = f"openai:{model}"
        self._rubrics = rubrics or load_rubrics()
        self._concurrency = concurrency
        self._max_retries = max_retries
        self._timeout = timeout
        self._unsupported: set[str] = set()
        """The optional parameters that the endpoint has complained about."""

    @property
    def fingerprint(self) -> str:
        rubrics = {kind: rubric.model_dump() for kind, rubric in self._rubrics.items()}
        return digest({"judge": "api 1", "url": _base_url(), "model": self.model, "rubrics": rubrics})

    def check(self) -> None:
        """A cheap call. Raises UserError if the key is missing or wrong, or endpoint or model isn't there."""
        asyncio.run(self._check())

    def judge(
        self, kind: JudgedKind, completions: Sequence[Completion], on_verdict: OnVerdict = ignore
    ) -> list[Verdict]:
        """Raises UserError as soon as the endpoint refuses the key or the quota is used up."""
        return asyncio.run(self._judge(self._rubrics[kind], completions, on_verdict))

    async def _judge(self, rubric: Rubric, completions: Sequence[Completion], on_verdict: OnVerdict) -> list[Verdict]:
        verdicts: dict[int, Verdict] = {}
        waiting = iter(enumerate(completions))

        async def work(client: openai.AsyncOpenAI) -> None:
            for i, completion in waiting:
                verdicts[i] = await self._ask(client, rubric, completion)
                on_verdict(verdicts[i])

        async with self._client(max_retries=self._max_retries, timeout=self._timeout) as client:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._concurrency):
                        group.create_task(work(client))
            except ExceptionGroup as errors:  # the first one has stopped the other tasks
                raise errors.exceptions[0] from None
        return [verdicts[i] for i in range(len(completions))]

    async def _ask(self, client: openai.AsyncOpenAI, rubric: Rubric, completion: Completion) -> Verdict:
        try:
            reply = await self._complete(client, rubric, completion)
        except JSONDecodeError:
            return Verdict(completion.id, unscored=f"{NO_REPLY}endpoint returned no JSON")
        except openai.APIStatusError as error:
            _raise_if_final(error)
            passing = error.status_code in (408, 409, 429) or error.status_code >= 500
            prefix = NO_REPLY if passing else "endpoint refused: "
            return Verdict(completion.id, unscored=f"{prefix}{error.status_code} {_first_line(error)}")
        except openai.APIError as error:
            return Verdict(completion.id, unscored=f"{NO_REPLY}{_first_line(error)}")
        return _read(reply, rubric, completion.id)

    async def _complete(self, client: openai.AsyncOpenAI, rubric: Rubric, completion: Completion) -> Any:
        """A request, and again without an optional parameter if the endpoint complains about that one."""
        wishes = {"temperature": 0, "max_completion_tokens": MAX_TOKENS, "response_format": _schema(rubric)}
        while True:
            options: dict[str, Any] = {key: wishes[key] for key in wishes if key not in self._unsupported}
            form = AS_JSON if "response_format" in options else AS_TEXT
            prompt = f"{rubric.render(completion.prompt, completion.response)}\n{form}"
            try:
                return await client.chat.completions.create(
                    model=self.model, messages=[{"role": "user", "content": prompt}], **options
                )
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                blamed = {key for key in options if key in (error.param or error.message)}
                if not blamed:
                    raise
                self._unsupported |= blamed

    async def _check(self) -> None:
        async with self._client(max_retries=1, timeout=20.0) as client:
            try:
                models = await _listed(client)
                if self.model in models:
                    return
                reply = await client.chat.completions.create(
                    model=self.model, messages=[{"role": "user", "content": "1"}], max_completion_tokens=1
                )
            except openai.NotFoundError as error:
                if models:
                    raise unknown(f"model at {_endpoint()},", self.model, models) from error
                raise UserError(f"{_endpoint()} has no model '{self.model}', or no chat API") from error
            except openai.APIStatusError as error:
                _raise_if_final(error)
                raise UserError(f"{_endpoint()}: {error.status_code} {_first_line(error)}") from error
            except openai.APIError as error:
                raise UserError(f"{_endpoint()} can't be reached: {_first_line(error)}") from error
            except JSONDecodeError:
                reply = None
            if not isinstance(reply, ChatCompletion):
                raise UserError(f"{_endpoint()} doesn't speak the OpenAI chat API")

    def _client(self, *, max_retries: int, timeout: float) -> openai.AsyncOpenAI:
        if not os.environ.get("OPENAI_API_KEY"):
            raise UserError(f"judge '{self.name}' needs OPENAI_API_KEY (any text for a server that asks for no key)")
        hooks = {"response": [_give_up_without_quota]}
        http = openai.DefaultAsyncHttpxClient(event_hooks=hooks)
        return openai.AsyncOpenAI(max_retries=max_retries, timeout=timeout, http_client=http)


async def _listed(client: openai.AsyncOpenAI) -> list[str]:
    """The models that the endpoint says it has; none if it has no such list."""
    try:
        page = await client.models.list()
    except (openai.NotFoundError, JSONDecodeError):
        return []
    return [model.id for model in getattr(page, "data", None) or []]


def _read(reply: Any, rubric: Rubric, id: str) -> Verdict:
    """What a reply says, or why it says nothing."""
    if not isinstance(reply, ChatCompletion):  # a page of HTML comes as a string
        return Verdict(id, unscored=f"{NO_REPLY}endpoint returned no JSON")
    choice = reply.choices[0] if reply.choices else None
    message, reason = getattr(choice, "message", None), getattr(choice, "finish_reason", None)
    if message is None:  # the client doesn't validate what it gets
        return Verdict(id, unscored=f"{NO_REPLY}endpoint returned no message")
    raw = str(message.refusal or message.content or "")
    if message.refusal or reason == "content_filter":
        return Verdict(id, unscored="the judge refused", raw=raw)
    if reason == "length":
        return Verdict(id, unscored="the judge's reply was cut off", raw=raw)
    found = VERDICT.findall(raw)
    if not found or found[-1].lower() not in rubric.options:
        return Verdict(id, unscored="the judge's reply is not on the menu", raw=raw)
    return rubric.verdict(id, found[-1].lower())


def _schema(rubric: Rubric) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"verdict": {"type": "string", "enum": list(rubric.options)}},
        "required": ["verdict"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}


async def _give_up_without_quota(response: Any) -> None:
    """The client would retry every 429, which is in vain for an account without money."""
    if response.status_code == 429 and b"insufficient_quota" in await response.aread():
        response.headers["x-should-retry"] = "false"


def _raise_if_final(error: openai.APIStatusError) -> None:
    """Raise UserError where any other request would fail alike. What is said of a wrong key may quote it."""
    if error.status_code in (401, 403):
        raise UserError(f"{_endpoint()} refuses the key in OPENAI_API_KEY ({error.status_code})") from None
    if error.code == "insufficient_quota":
        raise UserError(f"{_endpoint()}: the quota is used up; once there is some, run again to go on") from None
    if error.status_code == 404:
        raise UserError(f"{_endpoint()} has no such model, or no chat API (404)") from None


def _base_url() -> str:
    return os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"


def _endpoint() -> str:
    """The endpoint for messages, without the user name and password that may be in its URL."""
    url = urlsplit(_base_url())
    return f"judge endpoint {url._replace(netloc=url.netloc.rpartition('@')[2], query='').geturl()}"


def _first_line(error: openai.APIError) -> str:
    return error.message.strip().split("\n")[0][:200]
