"""The texts that an initialisation may contrast: those of the examples that its seed's cells train on, or others."""

from typing import Any

from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.data.sample import TrainingSample
from sails_eval.methods import Initialisation
from sails_eval.methods.subspace.contrast import Contrast, load_contrast
from sails_eval.methods.subspace.prepare import CONTRASTED
from sails_eval.training.batches import encoded_training, training_sample


def contrasted(start: Initialisation, pair: Pair, recipe: Recipe, *, seed: int | None, tokenizer: Any) -> Contrast:
    """What a recipe's initialisation may look at before a seed's cells (None: those of all seeds).

    Raises UserError where the sample, or the pair's contrast data, has nothing to contrast, or too little.
    """
    if not start.needs & CONTRASTED:
        return Contrast()
    sample, both = TrainingSample(), "contrast" in start.needs
    if pair.contrast_examples == "sample":
        assert seed is not None
        sample = training_sample(encoded_training(tokenizer, pair), pair, seed=seed, objective=recipe.objective)
        if both:
            sample.check(start.contrasts, method=recipe.name, where=f"the sample of seed {seed}")
    return load_contrast(tokenizer, pair, start.contrasts, both=both, seed=seed, sample=sample)
