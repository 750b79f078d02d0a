"""The engine `chat`: a finished model behind the OpenAI chat API, which has a template, ends and limits of its own.

It gives texts and no log-likelihoods. Which weights answer, today or tomorrow, only the endpoint knows.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
from lm_eval.models.openai_completions import LocalChatCompletion

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.models import client, endpoint
from sails_eval.models.engines.base import Engine
from sails_eval.models.engines.remote import Served, Tries

CHECK_SECONDS = 60.0
CHECK_PATIENCE = 5.0
"""How long the first answer may take, and for how many seconds it is asked for again."""


class ChatCompletions(Served, LocalChatCompletion):  # type: ignore[misc]
    """lm-eval's class; an answer that the endpoint withholds is an empty one."""

    path = "/chat/completions"

    def parse_generations(self, outputs: Any, **kwargs: Any) -> list[str]:  # a static method in the class above it
        return [choice["message"].get("content") or "" for choice in outputs["choices"]]


class ChatEngine(Engine):
    """A client of the endpoint that OPENAI_BASE_URL names; `pair.model` is what it calls the model."""

    def __init__(self, pair: Pair) -> None:
        self._model = pair.model

    def check(self, recipes: Sequence[Recipe], saved_ranks: Mapping[str, int]) -> None:
        """One request. Raises UserError where the key is missing or wrong, or endpoint or model isn't there."""
        asyncio.run(self._say_hello())

    async def _say_hello(self) -> None:
        lm = self._lm()
        asked = {"model": self._model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 16}
        try:
            async with lm.connected(CHECK_SECONDS) as connection:
                await lm.answer(connection, asked, None, Tries(timeout=CHECK_SECONDS, patience=CHECK_PATIENCE))
        except openai.OpenAIError as error:
            raise self._failed(error) from error

    @contextmanager
    def serving(self, checkpoint: Path | None, name: str | None = None) -> Iterator[ChatCompletions]:
        try:
            yield self._lm()
        except openai.OpenAIError as error:
            raise self._failed(error) from error

    def _lm(self) -> ChatCompletions:
        lm = ChatCompletions(model=self._model, base_url=endpoint.url(), num_concurrent=16)
        lm.url, lm.key, lm.query, lm.headers = endpoint.url(), _key(), endpoint.query(), endpoint.headers()
        return lm

    def _failed(self, error: openai.OpenAIError) -> UserError:
        said = endpoint.without_secrets(client.why(error, endpoint.url()))
        return UserError(f"reference 'openai:{self._model}' at {endpoint.url()}: {said}")


def _key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise UserError("references openai:MODEL need OPENAI_API_KEY (any text for a server that asks for no key)")
    return key
