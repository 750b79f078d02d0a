"""What every engine is: something that holds a pair's base model and lends it, changed by a checkpoint, to lm-eval."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sails_eval.core.recipe import Recipe
from sails_eval.models.chat import render_prompt

if TYPE_CHECKING:
    from lm_eval.api.model import LM


class Engine(ABC):
    """Generates answers, with the same prompts, end tokens and decoding on all engines: greedy answers differ by
    rounding only."""

    def check(self, recipes: Sequence[Recipe], saved_ranks: Mapping[str, int]) -> None:  # noqa: B027  # may do all
        """Raise UserError if models trained by these recipes could not answer on this engine.

        `saved_ranks` are those of the adapters on disk, by the recipe's name.
        """

    @abstractmethod
    def serving(self, checkpoint: Path | None, name: str | None = None) -> AbstractContextManager["LM"]:
        """The base model with an adapter or other weights, as an lm-eval model; the base model itself afterwards.

        `checkpoint` None is the base model itself. `name` is what the checkpoint may be called where it is served
        already. Raises UserError for a checkpoint that is missing or does not fit.
        """


class Quiet:
    """Put before one of lm-eval's model classes: no progress bars of its own, which would write over ours."""

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().generate_until(requests, disable_tqdm=True)  # type: ignore[misc]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood(requests, disable_tqdm=True)  # type: ignore[misc]


class EndsLoops:
    """Put before one of lm-eval's model classes that can end answers which only repeat themselves."""

    looped: frozenset[str] = frozenset()
    """The last texts that it ended (the definition is in `core/loops.py`), as tasks get them."""

    def note_looped(self, texts: Iterable[str]) -> None:
        self.looped |= {text.strip() for text in texts}


class Templated(Quiet, EndsLoops):
    """As `Quiet`, for classes that have the tokenizer: prompts are rendered as they were checked."""

    tokenizer: Any

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        self.looped = frozenset()
        return super().generate_until(requests)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return render_prompt(self.tokenizer, chat_history, add_generation_prompt)


SEED = 1234
"""Of answers that are sampled, as in lm-eval's own command; what it sends to servers has the same."""

ENGINE_KEY = "SAILS_EVAL_ENGINE_KEY"
"""The environment variable with the key of an engine's server, which is not the judge's."""
