"""An engine: `--engine example_engine` has transformers run the model, and its answers come in capitals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM

from sails_eval.core.pair import Pair
from sails_eval.models.base import applied, load_base
from sails_eval.models.engines.base import Engine
from sails_eval.models.engines.hf import QuietHFLM


class Loud(QuietHFLM):
    """One of lm-eval's model classes; any will do that has the tokenizer with the pair's chat template."""

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        return [answer.upper() for answer in super().generate_until(requests)]


class ExampleEngine(Engine):
    """It is made once for a base model, in a process of its own, which has all threads and devices."""

    def __init__(self, pair: Pair) -> None:
        self._base = load_base(pair)

    @contextmanager
    def serving(self, checkpoint: Path | None, name: str | None = None) -> Iterator[LM]:
        with applied(self._base, checkpoint) as model:  # the adapter, or the weights, of a cell; None is the base model
            yield Loud(pretrained=model, tokenizer=self._base.tokenizer, add_bos_token=False)
