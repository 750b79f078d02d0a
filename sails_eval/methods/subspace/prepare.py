"""A recipe's initialisation and what it may look at, as far as the pair has it.

Heavy imports stand inside the functions: the process that hands out the work never loads torch.
"""

from __future__ import annotations

from functools import lru_cache

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.methods import Initialisation, Material, load_initialisation
from sails_eval.methods.subspace.contrast import Contrast, check_contrast, load_contrast
from sails_eval.methods.subspace.settings import Kind
from sails_eval.models.loaded import base_of

CONTRASTED = frozenset({"contrast", "aligned"})
"""The needs of an initialisation that looks at contrast texts: at both classes, or at the aligned ones."""


def checked_initialisation(pair: Pair, recipe: Recipe) -> Initialisation:
    """The recipe's initialisation; nothing is loaded, torch included.

    Raises UserError where its settings are faulty or the pair lacks what it needs.
    """
    start = load_initialisation(recipe)
    saes = pair.sae_sources(start.sae_set)
    if "saes" in start.needs and not saes:
        raise UserError(
            f"method '{recipe.name}' needs SAEs, which pair '{pair.name}' has not; give --sae DIR (once for each layer)"
            ", or key 'saes' of the pair"
        )
    if "planted" in start.needs and pair.planted is None:
        raise UserError(
            f"method '{recipe.name}' needs a planted subspace, which pair '{pair.name}' has not: its key 'planted' "
            "names a safetensors file"
        )
    if start.needs & CONTRASTED:
        check_contrast(pair, start.contrasts, recipe.name)
    if "aligned_model" in start.needs:
        reference(pair, start.aligned)
    return start


def reference(pair: Pair, name: str) -> str:
    """One of the pair's `references` by its name, or the `first`. Raises UserError where there is none of that name."""
    if not pair.references:
        raise UserError(
            f"pair '{pair.name}' has no aligned model to look at; name one in its YAML: 'references: {{NAME: MODEL}}'"
        )
    name = next(iter(pair.references)) if name == "first" else name
    if name not in pair.references:
        raise unknown(f"reference of pair '{pair.name}':", name, pair.references)
    return name


def initialisation_of(pair: Pair, recipe: Recipe) -> tuple[Initialisation, Material]:
    """The recipe's initialisation, and what it may look at.

    Raises UserError as `checked_initialisation` does, and where what is needed cannot be had.
    """
    from sails_eval.methods.subspace.recovery import load_planted
    from sails_eval.methods.subspace.reference_weights import alignment
    from sails_eval.methods.subspace.saes import load_saes
    from sails_eval.models.adapters import adapter_config

    start, model = checked_initialisation(pair, recipe), base_of(pair).model
    aligned = alignment(model, pair, reference(pair, start.aligned)) if "aligned_model" in start.needs else ()
    return start, Material(
        model,
        saes=load_saes(pair, model, start.sae_set) if start.needs & {"saes", "layers"} else {},
        contrast=seen_by(start, pair),
        planted=load_planted(pair.planted, model.config.get_text_config().hidden_size) if pair.planted else {},
        alignment=dict(aligned),
        adapter_config=adapter_config(pair, recipe),
    )


def seen_by(start: Initialisation, pair: Pair) -> Contrast:
    """The contrast texts that an initialisation looks at."""
    if not start.needs & CONTRASTED:
        return Contrast()
    both = contrast_of(pair, start.contrasts)
    return both if "contrast" in start.needs else both.aligned_only


@lru_cache(maxsize=2)
def contrast_of(pair: Pair, which: Kind) -> Contrast:
    return load_contrast(base_of(pair).tokenizer, pair, which)
