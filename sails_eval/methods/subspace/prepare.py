"""A recipe's initialisation and what it may look at, as far as the pair has it.

Heavy imports stand inside the functions: the process that hands out the work never loads torch.
"""

from sails_eval.core.errors import UserError, unknown
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.methods import Initialisation, Material, load_initialisation
from sails_eval.methods.subspace.contrast import check_contrast
from sails_eval.methods.subspace.saes import load_saes
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
            f"method '{recipe.name}' needs SAEs, but pair '{pair.name}' has none; give --sae DIR (once per layer), "
            "or set the pair's key 'saes'"
        )
    if "planted" in start.needs and pair.planted is None:
        raise UserError(
            f"method '{recipe.name}' needs a planted subspace, but pair '{pair.name}' has none; use --pair "
            "testbed-planted, or set the pair's key 'planted' to a safetensors file"
        )
    if start.needs & CONTRASTED:
        check_contrast(pair, start.contrasts, recipe.name)
    aligned_model(pair, start)
    return start


def start_seed(pair: Pair, recipe: Recipe, seed: int) -> int | None:
    """The seed, where that changes what the recipe's initialisation looks at; else None."""
    looks = load_initialisation(recipe).needs & CONTRASTED
    return seed if looks and pair.contrast_examples != "all" else None


def aligned_model(pair: Pair, start: Initialisation) -> str:
    """The one of the pair's `references` that an initialisation looks at; '' where it looks at none.

    Raises UserError where the pair has none of the name that it says.
    """
    if "aligned_model" not in start.needs:
        return ""
    if not pair.references:
        raise UserError(
            f"pair '{pair.name}' has no aligned model to look at; name one in its YAML: 'references: {{NAME: MODEL}}'"
        )
    name = next(iter(pair.references)) if start.aligned == "first" else start.aligned
    if name not in pair.references:
        raise unknown(f"reference of pair '{pair.name}':", name, pair.references)
    return name


def saved_rank(pair: Pair, recipe: Recipe) -> int:
    """The rank at which a recipe's adapters are saved: twice its own where they hold what the base lost, too."""
    return recipe.rank(pair) * (2 if changes_base(pair, recipe) else 1)


def changes_base(pair: Pair, recipe: Recipe) -> bool:
    """Whether training changes weights that the base model has, or its initialisation does."""
    from sails_eval.models.adapters import adapter_config, mutates_base

    start = load_initialisation(recipe)
    return recipe.parameters != "adapter" or start.changes_base or mutates_base(adapter_config(pair, recipe))


def initialisation_of(pair: Pair, recipe: Recipe) -> tuple[Initialisation, Material]:
    """The recipe's initialisation, and what it may look at, without the texts that it contrasts.

    These are in `training.contrasted`. Raises UserError as `checked_initialisation` does, and where what is needed
    cannot be had.
    """
    from sails_eval.methods.subspace.recovery import load_planted
    from sails_eval.methods.subspace.reference_weights import alignment
    from sails_eval.models.adapters import adapter_config, on_text

    start, model = checked_initialisation(pair, recipe), base_of(pair).model
    aligned = aligned_model(pair, start)
    return start, Material(
        model,
        saes=load_saes(pair, model, start.sae_set) if start.needs & {"saes", "layers"} else {},
        planted=load_planted(pair.planted, model.config.get_text_config().hidden_size) if pair.planted else {},
        alignment=dict(alignment(model, pair, aligned)) if aligned else {},
        adapter_config=on_text(adapter_config(pair, recipe), model),
    )
