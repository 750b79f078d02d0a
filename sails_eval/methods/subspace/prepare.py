"""What a process has loaded, once, whichever stages it runs: base model, engine, judge, data, initialisations.

Heavy imports stand inside the functions: the process that hands out the work never loads torch.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.schema import validate
from sails_eval.models.loaded import base_of

if TYPE_CHECKING:
    from sails_eval.methods import Material
    from sails_eval.methods.subspace.contrast import Contrast


def checked_initialisation(pair: Pair, recipe: Recipe) -> tuple[Any, Any]:
    """The recipe's initialisation module and its settings; nothing is loaded.

    Raises UserError where the settings are faulty or the pair lacks what the initialisation needs.
    """
    from sails_eval.methods import load_initialisation
    from sails_eval.methods.subspace.contrast import check_contrast
    from sails_eval.methods.subspace.reference_weights import reference

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
    from sails_eval.methods import Material
    from sails_eval.methods.subspace.recovery import load_planted
    from sails_eval.methods.subspace.reference_weights import alignment
    from sails_eval.methods.subspace.saes import load_saes
    from sails_eval.models.adapters import adapter_config

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
    from sails_eval.methods.subspace.contrast import Contrast

    if not needs & CONTRASTED:
        return Contrast()
    both = contrast_of(pair, settings.contrast)
    return both if "contrast" in needs else both.aligned_only


@lru_cache(maxsize=2)
def contrast_of(pair: Pair, which: str) -> Contrast:
    from sails_eval.methods.subspace.contrast import load_contrast

    return load_contrast(base_of(pair).tokenizer, pair, which)
