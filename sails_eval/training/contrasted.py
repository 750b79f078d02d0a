"""The texts that an initialisation may contrast: those of the examples that its seed's cells train on, or others."""

from functools import lru_cache
from typing import Any

from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.core.training_settings import Objective
from sails_eval.data.sample import TrainingSample
from sails_eval.methods import Initialisation
from sails_eval.methods.subspace.contrast import Contrast, load_contrast
from sails_eval.methods.subspace.prepare import CONTRASTED
from sails_eval.methods.subspace.settings import ContrastKind
from sails_eval.training.batches import encoded_training, training_sample


def contrasted(start: Initialisation, pair: Pair, recipe: Recipe, *, seed: int | None, tokenizer: Any) -> Contrast:
    """What a recipe's initialisation may look at before a seed's cells (None: those of all seeds).

    Raises UserError where the sample, or the pair's contrast data, has nothing to contrast, or too little.
    """
    if not start.needs & CONTRASTED:
        return Contrast()
    both = "contrast" in start.needs
    return _read(tokenizer, pair, start.contrasts, both, seed, recipe.objective, recipe.name)


@lru_cache(maxsize=2)  # all cells of a seed look at the same, and all seeds at a whole file
def _read(
    tokenizer: Any, pair: Pair, which: ContrastKind, both: bool, seed: int | None, objective: Objective, method: str
) -> Contrast:
    sample = TrainingSample()
    if pair.contrast_examples == "sample":
        assert seed is not None
        sample = training_sample(encoded_training(tokenizer, pair), pair, seed=seed, objective=objective)
        if both:
            sample.check(which, method=method, where=f"the sample of seed {seed}")
    return load_contrast(tokenizer, pair, which, both=both, seed=seed, sample=sample)
