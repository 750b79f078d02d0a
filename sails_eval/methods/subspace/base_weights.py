"""Whether a recipe changes the base weights, and the rank at which its adapters are saved."""

from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.methods import load_initialisation
from sails_eval.models.adapters import adapter_config, mutates_base


def saved_rank(pair: Pair, recipe: Recipe) -> int:
    """The rank at which a recipe's adapters are saved: twice its own where they hold what the base lost, too."""
    return recipe.rank(pair) * (2 if changes_base(pair, recipe) else 1)


def changes_base(pair: Pair, recipe: Recipe) -> bool:
    """Whether training changes weights that the base model has, or its initialisation does."""
    if recipe.parameters != "adapter":
        return True
    return load_initialisation(recipe).changes_base or mutates_base(adapter_config(pair, recipe))
