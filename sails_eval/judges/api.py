"""The judge `openai:MODEL`: a model behind any endpoint that speaks the OpenAI chat API."""

import asyncio
import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import openai
from pydantic import BaseModel, Field, ValidationError, model_validator

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.fingerprint import digest
from sails_eval.core.records import Completion, Verdict
from sails_eval.core.schema import Frozen, validate
from sails_eval.judges.api_reply import (
    AS_JSON,
    AS_TEXT,
    MODERATED,
    REFUSED,
    Bill,
    NoReplyError,
    ReplyChoice,
    choice_in,
    schema_of,
    verdict_in,
)
from sails_eval.judges.base import NO_REPLY, Judge, JudgedKind, OnVerdict, Usage, ignore
from sails_eval.judges.local import defused
from sails_eval.judges.rubric import Rubric, load_rubrics
from sails_eval.models import client, endpoint, limits
from sails_eval.models.limits import BUSY, Limits, Pace, Patience, may_pass, retry_after

CHECK = "check the name after openai: and OPENAI_BASE_URL"

HARMLESS = "1"
"""A prompt that no endpoint minds."""

EXHAUSTED = re.compile(r"insufficient_quota|exceeded your current quota|billing", re.IGNORECASE)
"""In an error: that nothing more is to be had until somebody pays. Rate limits may speak of a quota, too."""

UNSUPPORTED = re.compile(r"un(supported|known|recognized|expected)|not (supported|permitted|allowed)", re.IGNORECASE)
"""In an error: that the endpoint can't do something, not that a request was wrong."""

CHECKS = 3
"""How often an endpoint is tried before anything else is done."""

CHECK_SECONDS = 20.0
"""How long a request of these may take."""

STRUCTURE = re.compile(r"<\|[^|<>\n]{1,40}\|>|</?s>|\[/?INST\]|<</?SYS>>|</?(?:start|end)_of_turn>", re.IGNORECASE)
"""What chat templates mark turns with: a server that knows one may take it for structure wherever it stands."""

STAGGER = 0.01
"""Seconds between the first requests. Sent at once, their replies would come at once, round after round, and wait for
each other to be read."""


class Options(Frozen, allow_inf_nan=False):
    """What may follow `openai:MODEL?`. None of it changes a verdict that there is."""

    concurrency: int = Field(default=16, ge=1, le=1000, description="requests at the same time")
    rpm: float | None = Field(default=None, gt=0, description="requests per minute at most")
    tpm: float | None = Field(default=None, gt=0, description="tokens per minute at most")
    timeout: float = Field(default=120.0, gt=0, description="timeout of a reply, in seconds, at most")
    patience: float = Field(default=120.0, ge=0, description="seconds for which failing requests are retried")
    max_tokens: int = Field(default=1024, ge=16, description="tokens of a reply at most; reasoning models need more")
    price_in: float | None = Field(default=None, ge=0, description="USD per million prompt tokens")
    price_out: float | None = Field(default=None, ge=0, description="USD per million tokens of replies")

    @model_validator(mode="after")
    def _both_prices(self) -> Self:
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("give both 'price_in' and 'price_out', or neither")
        return self

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """In USD; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    data: list[_Model]


class ApiJudge(Judge):
    """A chat model, asked about each completion by itself, several at once, at temperature 0; see `Options`.

    The client reads OPENAI_API_KEY and OPENAI_BASE_URL. Replies are constrained by a JSON schema, or to the words of a
    rubric that asks for one, until the endpoint says that it can't do that; from then on they are read from text. In
    the same way a model that takes no temperature is asked without one.
    """

    parallel = False

    def __init__(self, model: str, *, rubrics: Mapping[JudgedKind, Rubric] | None = None, **options: Any) -> None:
        """Options may be text. Raises UserError for one that is unknown or faulty."""
        self.model = model
        self.name = f"openai:{model}"
        self._options = validate(Options, options, where=f"judge '{self.name}'")
        self._rubrics = rubrics or load_rubrics()
        self._limits = Limits(self._options.rpm, self._options.tpm)
        self._pace = Pace(self._options.timeout, self._options.patience)
        self._usage = Usage()
        self._unsupported: set[str] = set()
        """The optional parameters that the endpoint has complained about."""

    @property
    def fingerprint(self) -> str:
        rubrics = {kind: rubric.model_dump() for kind, rubric in self._rubrics.items()}
        return digest({"judge": "api 4", "url": endpoint.url(), "model": self.model, "rubrics": rubrics})

    def take_usage(self) -> Usage:
        used, self._usage = self._usage, Usage()
        return used

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
        waiting, patience = iter(enumerate(completions)), Patience(self._options.patience)

        async def work(asked: openai.AsyncOpenAI, number: int) -> None:
            await asyncio.sleep(number * STAGGER)
            for i, completion in waiting:
                verdicts[i] = await self._ask(asked, rubric, completion, patience)
                on_verdict(verdicts[i])

        async with self._client(self._options.timeout) as asked:
            try:
                async with asyncio.TaskGroup() as group:
                    for number in range(min(self._options.concurrency, len(completions))):
                        group.create_task(work(asked, number))
            except ExceptionGroup as errors:  # the first one has stopped the other tasks
                raise errors.exceptions[0] from None
        return [verdicts[i] for i in range(len(completions))]

    async def _ask(
        self, asked: openai.AsyncOpenAI, rubric: Rubric, completion: Completion, patience: Patience
    ) -> Verdict:
        """The verdict; a request that fails is sent again as long as there is patience."""
        prompt = rubric.render(defused(completion.prompt, STRUCTURE), defused(completion.response, STRUCTURE))
        started, queued, attempt = patience.start(), 0.0, 0
        while True:
            attempt += 1
            queued += await self._limits.admit(_estimate(prompt))
            try:
                reply = await self._complete(asked, rubric, prompt, attempt)
            except NoReplyError as failure:
                wait = patience.wait(started + queued, attempt, failure.retry_after)
                if wait is None:
                    return Verdict(completion.id, unscored=f"{NO_REPLY}{failure}")
                await asyncio.sleep(wait)
            except openai.APIStatusError as error:
                patience.answered()
                if _moderated(error):
                    return Verdict(completion.id, unscored=REFUSED, raw=_first_line(error))
                reason = f"endpoint refused: {error.status_code} {_first_line(error)}"
                return Verdict(completion.id, unscored=reason)
            else:
                patience.answered()
                return verdict_in(reply, rubric, completion.id)

    async def _complete(self, asked: openai.AsyncOpenAI, rubric: Rubric, prompt: str, attempt: int) -> ReplyChoice:
        """A reply; asked for again without an optional parameter if the endpoint complains about that one.

        It isn't sent again in other requests, unless the complaint may be this prompt's own words.
        """
        roomy = rubric.reply == "line" or "max_tokens" in self._options.model_fields_set
        longest = self._options.max_tokens if roomy else 16  # for a single word: small models have no room for more
        wishes: dict[str, Any] = {"temperature": 0, "max_completion_tokens": longest}
        if rubric.reply == "line":
            wishes |= {"response_format": schema_of(rubric)}
        else:  # vLLM's way to say that only these words will do; the client knows no argument of that name
            wishes |= {"structured_outputs": {"choice": list(rubric.options)}}
        without: set[str] = set()
        while True:
            options = {key: wishes[key] for key in wishes.keys() - self._unsupported - without}
            end = "" if rubric.reply == "word" else f"\n{AS_JSON if 'response_format' in options else AS_TEXT}"
            try:
                return await self._send(asked, prompt + end, options, attempt)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                blamed = {key for key in options if _blames(error, key)}
                if not blamed:
                    raise
                without |= blamed
                self._unsupported |= {key for key in blamed if key not in prompt}

    async def _send(self, asked: openai.AsyncOpenAI, prompt: str, options: dict[str, Any], attempt: int) -> ReplyChoice:
        """One request; where it is forbidden, a harmless one tells whether that is for its content.

        Raises NoReplyError if it may fare better later, UserError if no request can.
        """
        try:
            return await self._post(asked, prompt, options, attempt)
        except openai.PermissionDeniedError as forbidden:
            if not _moderated(forbidden):
                await self._see_whether_let_in(asked)
            raise

    async def _see_whether_let_in(self, asked: openai.AsyncOpenAI) -> None:
        """Raises UserError where even a harmless request is forbidden, NoReplyError where that can't be told now."""
        try:
            await self._post(asked, HARMLESS, {"max_completion_tokens": 1})
        except openai.PermissionDeniedError as error:
            raise _key_refused(error) from None
        except openai.APIStatusError:
            pass  # it has been read, if not liked

    async def _post(
        self, asked: openai.AsyncOpenAI, prompt: str, options: dict[str, Any], attempt: int = 1
    ) -> ReplyChoice:
        """One request. Raises NoReplyError and UserError as `_send`, and the client's error for what is about it."""
        self._usage += Usage(requests=1)
        started = time.monotonic()
        try:
            response = await asked.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                extra_body=options,  # as arguments, the client would take them apart for every request
                timeout=self._pace.limit(attempt),
            )
        except openai.APIStatusError as error:
            _raise_if_final(error)
            if may_pass(error.status_code):
                reason = f"{error.status_code} {_first_line(error)}"
                raise NoReplyError(reason, retry_after(error.response.headers)) from error
            raise
        except openai.OpenAIError as error:
            raise NoReplyError(_why(error)) from error
        self._pace.replied(time.monotonic() - started)
        with suppress(ValidationError):  # not every reply says what it took, or what can be
            used = Bill.model_validate_json(response.content).usage
            tokens = (used.prompt_tokens, used.completion_tokens)
            self._limits.correct(_estimate(prompt), sum(tokens))
            self._usage += Usage(0, *tokens, self._options.cost(*tokens))
        return choice_in(response.content)

    async def _check(self) -> None:
        async with self._client(CHECK_SECONDS) as asked:
            for attempt in range(1, CHECKS + 1):
                try:
                    return await self._try(asked)
                except _MayPassError:
                    if attempt == CHECKS:
                        raise
                    await asyncio.sleep(limits.FIRST_WAIT * attempt)

    async def _try(self, asked: openai.AsyncOpenAI) -> None:
        models: list[str] = []
        try:
            models = await _listed(asked)
            if self.model in models:
                return
            response = await asked.chat.completions.with_raw_response.create(
                model=self.model, messages=[{"role": "user", "content": HARMLESS}], max_completion_tokens=1
            )
            choice_in(response.content)
        except openai.PermissionDeniedError as error:
            raise _key_refused(error) from None
        except openai.NotFoundError as error:
            if models:
                raise unknown(f"model at {endpoint.told()},", self.model, models) from error
            raise UserError(
                f"{endpoint.told()} has no model '{self.model}', or no chat completions API; {CHECK}"
            ) from error
        except openai.APIStatusError as error:
            _raise_if_final(error)
            if error.status_code not in BUSY and not _blames(error, "max_completion_tokens"):
                kind = _MayPassError if may_pass(error.status_code) else UserError
                raise kind(f"{endpoint.told()}: {error.status_code} {_first_line(error)}") from error
        except client.RefusedReplyError as error:
            raise _MayPassError(f"{endpoint.told()}: {_why(error)}; check OPENAI_BASE_URL") from error
        except openai.OpenAIError as error:
            raise _MayPassError(f"{endpoint.told()} can't be reached: {_why(error)}; check OPENAI_BASE_URL") from error
        except NoReplyError as error:
            raise _MayPassError(
                f"{endpoint.told()} does not answer as the OpenAI chat API does; check OPENAI_BASE_URL"
            ) from error

    def _client(self, timeout: float) -> openai.AsyncOpenAI:
        key = os.environ.get("OPENAI_API_KEY", "")
        if not key:
            raise UserError(f"judge '{self.name}' needs OPENAI_API_KEY (any text for a server that asks for no key)")
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise UserError("OPENAI_API_KEY has a space, a line break or a character that no key has; set it again")
        return client.connect(endpoint.url(), key, timeout=timeout, query=endpoint.query(), headers=endpoint.headers())


class _MayPassError(UserError):
    """What is wrong now, and need not be at the next try."""


async def _listed(asked: openai.AsyncOpenAI) -> list[str]:
    """The models that the endpoint says it has; none if it has no such list, or one that fails."""
    try:
        response = await asked.models.with_raw_response.list()
        return [model.id for model in _Models.model_validate_json(response.content).data]
    except openai.AuthenticationError:
        raise
    except (openai.APIStatusError, ValidationError):
        return []


def _blames(error: openai.APIStatusError, parameter: str) -> bool:
    """Whether an error says that the endpoint, or this model, doesn't take a parameter."""
    return error.param == parameter or (parameter in _message(error) and bool(UNSUPPORTED.search(_message(error))))


def _estimate(prompt: str) -> int:
    """About how many tokens a prompt has; the endpoint says afterwards how many there were."""
    return len(prompt.encode()) // 4


def _moderated(error: openai.APIStatusError) -> bool:
    return bool(MODERATED.search(_said(error))) and "account" not in _message(error)


def _said(error: openai.APIStatusError) -> str:
    return f"{error.code} {error.type} {_message(error)}"


def _message(error: openai.APIError) -> str:
    """What an endpoint says about an error, including messages that are not in OpenAI's form, such as FastAPI's."""
    detail = error.body.get("detail") if isinstance(error.body, dict) else None
    return f"{error.message} - {detail}" if detail and str(detail) not in error.message else error.message


def _key_refused(error: openai.APIStatusError) -> UserError:
    """What is said of a wrong key may quote a part of it, and is left out."""
    return UserError(
        f"{endpoint.told()} rejects the key in OPENAI_API_KEY, or its access to this model ({error.status_code}); set "
        "a valid key"
    )


def _raise_if_final(error: openai.APIStatusError) -> None:
    """Raise UserError where any other request would fail alike."""
    status = error.status_code
    if status == 402 or (status < 500 and EXHAUSTED.search(_said(error))):
        raise UserError(
            f"{endpoint.told()}: the quota is used up; give the same command again later to resume"
        ) from None
    if status == 401 or (status == 400 and "api key" in _message(error).lower()):
        raise _key_refused(error) from None
    if status == 404:
        raise UserError(f"{endpoint.told()} has no such model, or no chat completions API (404); {CHECK}") from None


def _why(error: openai.OpenAIError) -> str:
    return endpoint.without_secrets(client.why(error, endpoint.url()))


def _first_line(error: openai.APIError) -> str:
    return endpoint.without_secrets(_message(error)).strip().split("\n")[0][:200]
