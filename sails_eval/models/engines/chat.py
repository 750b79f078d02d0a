"""The engine `chat`: a finished model behind the OpenAI chat API, which has a template, ends and limits of its own.

It gives texts and no log-likelihoods. Which weights answer, today or tomorrow, only the endpoint knows.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import openai
from aiohttp import ClientError
from lm_eval.models.openai_completions import LocalChatCompletion

from sails_eval.core.errors import UserError, first_line
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.models import endpoint
from sails_eval.models.engines.base import Engine, Quiet


class ChatCompletions(Quiet, LocalChatCompletion):  # type: ignore[misc]
    """lm-eval's class; an answer that the endpoint withholds is an empty one."""

    def parse_generations(self, outputs: Any, **kwargs: Any) -> list[str]:  # a static method in the class above it
        return [text or "" for text in LocalChatCompletion.parse_generations(self, outputs, **kwargs)]


class ChatEngine(Engine):
    """A client of the endpoint that OPENAI_BASE_URL names; `pair.model` is what it calls the model."""

    def __init__(self, pair: Pair) -> None:
        self._model = pair.model

    def check(self, recipes: Sequence[Recipe], saved_ranks: Mapping[str, int]) -> None:
        """One request. Raises UserError where the key is missing or wrong, or endpoint or model isn't there."""
        client = openai.OpenAI(
            api_key=_key(),
            base_url=endpoint.url(),
            default_query=endpoint.query(),
            default_headers=endpoint.headers(),
            timeout=60,
        )
        try:
            client.chat.completions.create(
                model=self._model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=16
            )
        except (openai.OpenAIError, ValueError) as error:  # an HTML page is no JSON
            raise self._failed(error) from error

    @contextmanager
    def serving(self, checkpoint: Path | None, name: str | None = None) -> Iterator[ChatCompletions]:
        query = endpoint.query()
        lm = ChatCompletions(
            model=self._model,
            base_url=f"{endpoint.url()}/chat/completions" + (f"?{urlencode(query)}" if query else ""),
            header={"Authorization": f"Bearer {_key()}", **endpoint.headers()},
            num_concurrent=16,
            max_retries=8,  # lm-eval's class makes them, with waits between that grow to 10 seconds
        )
        try:
            yield lm
        except (ClientError, TimeoutError, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> UserError:
        said = endpoint.without_secrets(first_line(error))
        return UserError(f"reference 'openai:{self._model}' at {endpoint.url()}: {said}")


def _key() -> str:
    key = os.environ.get("OPENAI_API_KEY", "")
    if not key:
        raise UserError("references openai:MODEL need OPENAI_API_KEY (any text for a server that asks for no key)")
    return key
