"""What a process has loaded, once, whichever stages it runs: base model, engine, judge, data, initialisations.

Heavy imports stand inside the functions: the process that hands out the work never loads torch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sails_eval.config import Pair, Recipe, validate
from sails_eval.data import read_examples
from sails_eval.engines import HF, load_engine, served
from sails_eval.errors import UserError
from sails_eval.judges import load_judge
from sails_eval.judges.base import Judge

if TYPE_CHECKING:
    from sails_eval.contrast import Contrast
    from sails_eval.engines.base import Engine
    from sails_eval.methods import Material
    from sails_eval.models import Base
    from sails_eval.train import TokenRow


class _Held:
    """One big thing at a time: what was there makes room before another is loaded."""

    def __init__(self) -> None:
        self._key: Any = None
        self._value: Any = None

    def holds(self, key: Any) -> bool:
        return bool(self._key == key)

    def drop(self) -> None:
        self._key = self._value = None

    def get(self, key: Any, load: Callable[[], Any]) -> Any:
        if not self.holds(key):
            self.drop()
            self._value = load()
            self._key = key
        return self._value


_BASE, _ENGINE = _Held(), _Held()


def base_of(pair: Pair) -> Base:
    from sails_eval.models import load_base

    if not _BASE.holds(pair):
        _ENGINE.drop()  # it may hold the model that was here
    base: Base = _BASE.get(pair, lambda: load_base(pair))
    return base


def engine_of(engine: str, pair: Pair) -> Engine:
    pair = pair if engine == HF else served(pair)
    if engine == HF:
        base_of(pair)
    found: Engine = _ENGINE.get((engine, pair), lambda: load_engine(engine, pair, lambda: base_of(pair)))
    return found


@lru_cache(maxsize=1)
def training_rows(pair: Pair) -> list[TokenRow]:
    from sails_eval.train import encode_examples

    assert pair.train is not None
    rows = encode_examples(base_of(pair).tokenizer, read_examples(pair.train).examples, pair.max_length)
    if not rows:
        raise UserError(f"{pair.train}: every request is longer than max_length={pair.max_length} tokens")
    return rows


@lru_cache(maxsize=2)
def judge_of(spec: str) -> Judge:
    return load_judge(spec)


def checked_initialisation(pair: Pair, recipe: Recipe) -> tuple[Any, Any]:
    """The recipe's initialisation module and its settings; nothing is loaded.

    Raises UserError where the settings are faulty or the pair lacks what the initialisation needs.
    """
    from sails_eval.alignment import reference
    from sails_eval.contrast import check_contrast
    from sails_eval.methods import load_initialisation

    assert recipe.init is not None
    module = load_initialisation(recipe.init)
    settings: Any = validate(module.Settings, recipe.settings, where=f"recipe '{recipe.name}', settings")
    sae_set = getattr(settings, "saes", None)
    if "saes" in module.needs and not pair.sae_sources(sae_set):
        raise UserError(
            f"method '{recipe.name}' needs SAEs, which pair '{pair.name}' has not; give --sae DIR (once for each layer)"
            ", or key 'saes' of the pair"
        )
    if "planted" in module.needs and pair.planted is None:
        raise UserError(
            f"method '{recipe.name}' needs a planted subspace, which pair '{pair.name}' has not: its key 'planted' "
            "names a safetensors file"
        )
    if module.needs & CONTRASTED:
        check_contrast(pair, settings.contrast, recipe.name)
    if "aligned_model" in module.needs:
        reference(pair, settings.aligned)
    return module, settings


def initialisation_of(pair: Pair, recipe: Recipe) -> tuple[Any, Any, Material]:
    """The recipe's initialisation module, its checked settings, and what it may look at.

    Raises UserError as `checked_initialisation` does, and where what is needed cannot be had.
    """
    from sails_eval.alignment import alignment
    from sails_eval.methods import Material
    from sails_eval.peft_configs import adapter_config
    from sails_eval.recovery import load_planted
    from sails_eval.saes import load_saes

    module, settings = checked_initialisation(pair, recipe)
    model, sae_set = base_of(pair).model, getattr(settings, "saes", None)
    material = Material(
        model,
        saes=load_saes(pair, model, sae_set) if module.needs & {"saes", "layers"} else {},
        contrast=seen_by(module.needs, pair, settings),
        planted=load_planted(pair.planted, model.config.get_text_config().hidden_size) if pair.planted else {},
        alignment=dict(alignment(model, pair, settings.aligned)) if "aligned_model" in module.needs else {},
        adapter_config=adapter_config(pair, recipe),
    )
    return module, settings, material


CONTRASTED = frozenset({"contrast", "aligned"})
"""The needs of an initialisation that looks at contrast texts: at both classes, or at the aligned ones."""


def seen_by(needs: frozenset[str], pair: Pair, settings: Any) -> Contrast:
    """The contrast texts that an initialisation with these needs looks at."""
    from sails_eval.contrast import Contrast

    if not needs & CONTRASTED:
        return Contrast()
    both = contrast_of(pair, settings.contrast)
    return both if "contrast" in needs else both.aligned_only


@lru_cache(maxsize=2)
def contrast_of(pair: Pair, which: str) -> Contrast:
    from sails_eval.contrast import load_contrast

    return load_contrast(base_of(pair).tokenizer, pair, which)
