"""What the engines behind HTTP share: lm-eval's classes of API models, whose requests go by this package's client."""

import asyncio
import copy
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import openai

from sails_eval.models import client
from sails_eval.models.engines.base import Quiet
from sails_eval.models.limits import Pace, Patience, may_pass, retry_after

LARGEST = 64 * 2**20
"""Bytes of a reply at most: with log-likelihoods, each token of a long prompt takes some hundred."""


class Tries:
    """How long requests of one kind may take, each attempt and all together: see `Pace` and `Patience`."""

    def __init__(self, *, timeout: float, patience: float) -> None:
        self.pace, self.patience = Pace(timeout, patience), Patience(patience)


class MalformedError(openai.OpenAIError):
    """A reply that is not of the API's form."""


class Served(Quiet):
    """Put before one of lm-eval's classes: same prompts, payloads and parsing, but requests are retried with patience,
    none is redirected, and a reply that is not of the API's form is no answer.

    `path` is where answers are asked for below `url`; `headers` and `query` go with every request.
    """

    url: str
    path: str
    key: str
    query: Mapping[str, object] | None = None
    headers: Mapping[str, str] | None = None
    concurrency: int = 16
    longest = patience = 600.0
    """Seconds that an answer may take at most, and for which a request that fails is sent again."""

    async def get_batched_requests(
        self, requests: Sequence[Any], cache_keys: object, *, generate: bool = True, **kwargs: Any
    ) -> list[list[Any]]:
        """The answers, of one request each, in their order. Raises OpenAIError where one cannot be had."""
        lengths: Sequence[int | None] = kwargs.pop("ctxlens", None) or [None] * len(requests)
        answers: list[list[Any]] = [[]] * len(requests)
        tries, waiting = Tries(timeout=self.longest, patience=self.patience), iter(range(len(requests)))

        async def work(asked: openai.AsyncOpenAI) -> None:
            for i in waiting:
                payload = self._create_payload(  # type: ignore[attr-defined]  # lm-eval's, as the next ones
                    self.create_message([requests[i]]),  # type: ignore[attr-defined]
                    generate=generate,
                    seed=self._seed,  # type: ignore[attr-defined]
                    **copy.deepcopy(kwargs),
                )
                answers[i] = [await self.answer(asked, payload, lengths[i], tries)]

        try:
            async with self.connected(self.longest) as asked, asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(requests))):
                    group.create_task(work(asked))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return answers

    def connected(self, timeout: float) -> openai.AsyncOpenAI:
        return client.connect(
            self.url, self.key, timeout=timeout, largest=LARGEST, query=self.query, headers=self.headers
        )

    async def answer(
        self, asked: openai.AsyncOpenAI, payload: Mapping[str, Any], length: int | None, tries: Tries
    ) -> Any:
        """What one request gets: a text, or a log-likelihood; `length` is then how many tokens are its context.

        Raises OpenAIError where there is no answer and, as far as can be told, will be none.
        """
        pace, patience = tries.pace, tries.patience
        started, attempt = patience.start(), 0
        while True:
            attempt, sent, asked_wait = attempt + 1, time.monotonic(), None
            try:
                reply = await asked.post(self.path, body=payload, cast_to=str, options={"timeout": pace.limit(attempt)})
                pace.replied(time.monotonic() - sent)
                answer = self._text(reply) if length is None else self._likelihood(reply, payload["prompt"], length)
            except openai.OpenAIError as error:
                if isinstance(error, openai.APIStatusError):
                    if not may_pass(error.status_code):
                        raise
                    asked_wait = retry_after(error.response.headers)
                if (wait := patience.wait(started, attempt, asked_wait)) is None:
                    raise
                await asyncio.sleep(wait)
            else:
                patience.answered()
                return answer

    def _text(self, reply: str) -> str:
        with _of_the_form():
            (text,) = self.parse_generations(outputs=json.loads(reply))  # type: ignore[attr-defined]
            return (text or "") + ""  # nothing but text can have that added

    def _likelihood(self, reply: str, prompt: Sequence[Sequence[int]], context: int) -> tuple[float, bool]:
        """Of the tokens behind the first `context` ones of the prompt, and whether each was the likeliest."""
        with _of_the_form():
            outputs = json.loads(reply)
            if len(outputs["choices"][0]["logprobs"]["token_logprobs"]) != len(prompt[0]) + 1:  # one is generated
                raise ValueError("not as many as tokens")
            ((found, greedy),) = self.parse_logprobs(outputs=outputs, ctxlens=[context])  # type: ignore[attr-defined]
            if not float(found) <= 0:
                raise ValueError("not the logarithm of a probability")
            return float(found), greedy


@contextmanager
def _of_the_form() -> Iterator[None]:
    """Raises MalformedError where what is read is not there, or is something else."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise MalformedError("its reply is not of the form of the OpenAI API") from error
