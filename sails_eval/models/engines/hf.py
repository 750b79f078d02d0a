"""The engine `hf`: the model in this process, by transformers and PEFT."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval.models.huggingface import HFLM

from sails_eval.core.pair import Pair
from sails_eval.models.base import Base, applied, context_of
from sails_eval.models.engines.base import Engine, Templated


class QuietHFLM(Templated, HFLM):  # type: ignore[misc]
    """lm-eval's model class for transformers."""


def wrap(model: Any, tokenizer: Any, pair: Pair) -> HFLM:
    """A loaded model (with an adapter or without) as lm-eval takes it."""
    return QuietHFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=pair.eval_batch_size,
        max_length=context_of(pair),  # where the config states none, lm-eval would cut prompts at 2048
        add_bos_token=False,  # as in training: special tokens are the template's alone
    )


class HfEngine(Engine):
    """A loaded base model; adapters are put onto it unmerged, other weights in place of its own."""

    def __init__(self, base: Base, pair: Pair) -> None:
        self._base = base
        self._pair = pair

    @contextmanager
    def serving(self, checkpoint: Path | None, name: str | None = None) -> Iterator[HFLM]:
        with applied(self._base, checkpoint) as model:
            yield wrap(model, self._base.tokenizer, self._pair)
