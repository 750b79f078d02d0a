"""What is missing for a comparison, looked for before anything is spent: access, keys, extras, data, SAEs.

Nothing here loads torch or a model; `cost/forecast.py` adds what memory says. Each raises UserError, with a line for
every thing that is missing.
"""

import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from sails_eval.core.data_source import HUB, origins
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import Recipe
from sails_eval.data.hub import fetch, parse_spec
from sails_eval.data.reading import pinned, read_contrast, read_examples
from sails_eval.data.sample import TrainingSample
from sails_eval.judges.spec import parse
from sails_eval.methods import initialisations, load_initialisation
from sails_eval.methods.subspace.layers import fix_of, is_made_here
from sails_eval.models.engines import OPENAI
from sails_eval.models.hub import lacks_access
from sails_eval.plan.problems import Problems


def check_model(pair: Pair) -> None:
    """Whether the pair's model and its chat template can be had."""
    if pair.chat_template is not None and not pair.chat_template.is_file():
        raise UserError(f"{pair.chat_template}: no such chat template file; correct --chat-template or the pair's YAML")
    if (lack := lacks_access(pair.model, pair.revision, known_gated=pair.gated)) is not None:
        raise lack


def is_large(pair: Pair) -> bool:
    """Whether the pair's model is one that may not fit: from the hub, or of more than 100 MB."""
    folder = Path(pair.model)
    return not folder.is_dir() or sum(file.stat().st_size for file in folder.glob("*.safetensors")) > 10**8


def check_data(pair: Pair) -> None:
    """Whether training and contrast data can be had and read; what lies on the hub is fetched."""
    if pair.train is None:
        raise UserError("no training data; give --train FILE, or a pair that has the key 'train'")
    problems = Problems()
    for key, data in (("train", pair.train), ("contrast", pair.contrast)):
        for origin in dict.fromkeys(origins(data) if data else ()):
            problems.attempt(_check_origin, origin, pair, key)
    problems.check()
    problems.attempt(read_examples, pinned(pair.train))
    if pair.contrast is not None:
        problems.attempt(read_contrast, pinned(pair.contrast))
    problems.check()


def check_sample(pair: Pair, recipe: Recipe) -> None:
    """Whether the training data have what the recipe's initialisation contrasts of its sample, if it does."""
    start = load_initialisation(recipe)
    if "contrast" in start.needs and pair.contrast_examples == "sample" and pair.train is not None:
        examples = read_examples(pinned(pair.train)).examples
        whole = TrainingSample(examples, any(example.harmful for example in examples))
        whole.check(start.contrasts, method=recipe.name, where=str(pair.train))


def _check_origin(origin: str, pair: Pair, key: str) -> None:
    if origin.startswith(HUB):
        fetch(parse_spec(origin))
    elif not Path(origin).exists():
        raise UserError(f"{origin}: no such file or folder; correct --{key}, or key '{key}' of pair '{pair.name}'")


def check_judge(pair: Pair) -> None:
    """Whether the judges have the keys and extras that they want."""
    specs, lacks = parse(pair.judge) if pair.judge else (), []
    if any(spec.kind == OPENAI for spec in specs) and not os.environ.get("OPENAI_API_KEY"):
        lacks.append(f"judge '{pair.judge}' needs OPENAI_API_KEY; set it (to any text for a server without keys)")
    if any(spec.kind == "zoo" for spec in specs) and not find_spec("judgezoo"):
        lacks.append(f"judge '{pair.judge}' needs the package judgezoo: pip install 'sails-eval[judges]'")
    if lacks:
        raise UserError("\n".join(lacks))


def check_reference(target: str) -> None:
    """Whether a finished model can be had: a key for an endpoint, or access to the hub."""
    if target.startswith(f"{OPENAI}:"):
        if not os.environ.get("OPENAI_API_KEY"):
            raise UserError(
                f"reference '{target}' needs OPENAI_API_KEY; set it (to any text for a server without keys)"
            )
        return
    model, _, revision = (target, "", "") if Path(target).is_dir() else target.partition("@")
    if (lack := lacks_access(model, revision or None, known_gated=False)) is not None:
        raise lack


WRONG_PATH = "correct --sae or the pair's YAML"


def check_saes(pair: Pair, recipes: Iterable[Recipe]) -> None:
    """Whether SAEs that are folders are there; those that are yet to be trained, only where a recipe reads some."""
    starts = initialisations(recipes)
    read = any(start.needs & {"saes", "layers"} for start in starts)
    paths = [sae.path for sae in pair.saes if sae.path is not None and not sae.path.is_dir()]
    if missing := [path for path in paths if read or not is_made_here(path)]:
        told = (f"SAE '{path}': no such folder; {fix_of(path, WRONG_PATH)}" for path in missing)
        raise UserError("\n".join(told))
