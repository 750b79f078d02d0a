"""The engine `openai:BASE_URL`: a server that has the base model already, as `vllm serve` does, and adapters by name.

Prompts go there as token ids through the completions API, so that template, BOS and log-likelihoods are those of the
other engines. That the served weights are the pair's is the user's word; nothing here can see them.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import openai
from lm_eval.models.openai_completions import LocalCompletionsAPI
from pydantic import BaseModel, ValidationError

from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import of_path
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.models import client
from sails_eval.models.base import BOUNDLESS, context_of, ends_of, load_generation, load_tokenizer
from sails_eval.models.engines.base import ENGINE_KEY, Engine, Templated
from sails_eval.models.engines.remote import Served
from sails_eval.models.hub import fetch
from sails_eval.models.saved_adapter import CONFIG, read_lora

CALL_SECONDS = 300.0
"""How long the server may take for what is no answer: loading an adapter is the longest."""

CANNOT_LOAD = (
    "and cannot load them; start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, or with --lora-modules NAME=FOLDER and "
    "give --name NAME to evaluate"
)


class Completions(Served, Templated, LocalCompletionsAPI):  # type: ignore[misc]
    """lm-eval's class, whose answers end where those of the other engines do."""

    path = "/completions"
    concurrency = 32  # requests of one prompt each; the server makes batches of them
    ends: list[int]

    def _create_payload(self, *args: Any, generate: bool = False, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._create_payload(*args, generate=generate, **kwargs)
        return {**payload, "stop_token_ids": self.ends} if generate else payload


class _Served(BaseModel):
    """A line of the server's list of models; `root` is where its weights lie, `parent` the base of an adapter."""

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[_Served]


class OpenAIEngine(Engine):
    """A client of the server. Nothing is asked of it before `check` or `serving`."""

    def __init__(self, url: str, pair: Pair) -> None:
        self._url = url
        self._pair = pair
        self._key = os.environ.get(ENGINE_KEY) or "none"
        self._folder = fetch(pair.model, pair.revision)
        self._tokenizer = load_tokenizer(pair)

    def check(self, recipes: Sequence[Recipe], saved_ranks: Mapping[str, int]) -> None:
        """Raises UserError where the server cannot be reached, does not have the model or reads too few tokens.

        So it does where a recipe trains whole models, or the server loads no adapters.
        """
        for recipe in recipes:
            if recipe.parameters != "adapter":
                raise UserError(
                    f"method '{recipe.name}' trains weights, which a server cannot take; leave it out, or give "
                    "--engine hf or vllm"
                )
        served, context = self._base(), context_of(self._pair)
        if (served.max_model_len or BOUNDLESS) < context < BOUNDLESS:
            raise UserError(
                f"{self._url} reads {served.max_model_len} tokens at most; serve with more (--max-model-len), or set "
                f"'engine: {{max_model_len: {served.max_model_len}}}' in the pair's YAML"
            )
        if recipes:
            self._check_loading()

    @contextmanager
    def serving(self, checkpoint: Path | None, name: str | None = None) -> Iterator[Completions]:
        if checkpoint is None:
            model, loaded = self._base().id, False
        elif (checkpoint / CONFIG).is_file():
            model, loaded = self._adapter(checkpoint, name)
        else:
            raise UserError(f"{checkpoint}: not an adapter, and a server cannot take other weights; give --engine hf")
        try:
            yield self._lm(model)
        except openai.OpenAIError as error:
            raise UserError(
                f"{self._url} failed while answering: {self._why(error)}; finished answers are kept: give the same "
                "command again"
            ) from error
        finally:
            if loaded:
                with suppress(openai.OpenAIError):  # it may be gone by now; the name is never another adapter's
                    self._post("unload_lora_adapter", {"lora_name": model})

    def _lm(self, model: str) -> Completions:
        lm = Completions(
            model=model,
            base_url=f"{self._url}/completions",
            tokenizer_backend="huggingface",
            tokenizer=str(self._folder),
            num_concurrent=Completions.concurrency,
            max_length=context_of(self._pair) + 1,  # it leaves a place free; that documents fit was checked
        )
        lm.url, lm.key = self._url, self._key
        lm.tokenizer, lm.ends = self._tokenizer, ends_of(self._pair, load_generation(self._folder), self._tokenizer)
        return lm

    def _models(self) -> list[_Served]:
        try:
            return _Models.model_validate_json(asyncio.run(self._call("get", "/models"))).data
        except openai.OpenAIError as error:
            raise UserError(f"{self._url} can't be reached, or has no list of models: {self._why(error)}") from error
        except ValidationError as error:
            raise UserError(
                f"{self._url}: its list of models is not that of an OpenAI API; check the URL in --engine"
            ) from error

    def _base(self) -> _Served:
        """The pair's model as the server has it: by its id or where its weights lie, or the only one there."""
        bases = [model for model in self._models() if model.parent is None]
        wanted = {self._pair.model, self._pair.name, Path(self._pair.model).name}
        for model in bases:
            if {model.id, model.root} & wanted or len(bases) == 1:
                return model
        found = ", ".join(model.id for model in bases) or "no model"
        raise UserError(
            f"{self._url} has {found}, and none is '{self._pair.model}'; serve that, or give it this name with "
            "--served-model-name"
        )

    def _adapter(self, folder: Path, name: str | None) -> tuple[str, bool]:
        """What the server calls an adapter, and whether it was loaded just now.

        It may be served under `name`; else the server is asked to load it, under a name made of its bytes, which no
        other adapter ever has. That it is served from this folder says nothing: the folder may hold another by now.
        """
        read_lora(folder)
        made = f"adapter-{of_path(folder)}"
        for model in self._models():
            if model.parent is not None and model.id in (name, made):
                return model.id, False
        try:
            self._post("load_lora_adapter", {"lora_name": made, "lora_path": str(folder.resolve())})
        except openai.NotFoundError as error:
            if _no_such_route(error):
                raise UserError(f"{self._url} does not serve the adapter {folder} {CANNOT_LOAD}") from error
            raise UserError(
                f"{self._url} finds no adapter in {folder.resolve()}: {self._why(error)}; a server loads adapters "
                "only from folders that it sees under the same path"
            ) from error
        except openai.OpenAIError as error:
            raise UserError(f"{self._url} cannot load the adapter {folder}: {self._why(error)}") from error
        return made, True

    def _check_loading(self) -> None:
        """Have the server unload an adapter that it does not have: it says so, or that it does no such thing."""
        try:
            self._post("unload_lora_adapter", {"lora_name": "adapter-none"})
        except openai.NotFoundError as error:
            if _no_such_route(error):
                raise UserError(
                    f"{self._url} has no adapters of methods that are to be trained {CANNOT_LOAD}"
                ) from error
        except openai.OpenAIError as error:
            raise UserError(f"{self._url} cannot unload adapters: {self._why(error)}") from error

    def _post(self, action: str, body: dict[str, str]) -> None:
        asyncio.run(self._call("post", f"/{action}", body))

    async def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> str:
        async with client.connect(self._url, self._key, timeout=CALL_SECONDS) as asked:
            return await (asked.get(path, cast_to=str) if method == "get" else asked.post(path, body=body, cast_to=str))

    def _why(self, error: openai.OpenAIError) -> str:
        return client.why(error, self._url)


def _no_such_route(error: openai.NotFoundError) -> bool:
    """Whether nothing at all is at an address; what is there complains in the API's form."""
    return not isinstance(error.body, dict) or "message" not in error.body
