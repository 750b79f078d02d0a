"""What can be known of an adapter from its files: whether it is there, and whether an engine will take its rank."""

from pathlib import Path
from typing import Any

from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair
from sails_eval.models.stored import AGAIN, read_settings

CONFIG = "adapter_config.json"
CHECKPOINT = "checkpoint"
"""The folder of an adapter, or of a whole model, in the folder of the cell that it was trained for."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The limits that vLLM permits (its `MaxLoRARanks`; 1 is too small for any warm-up to be worth it)."""


WITHOUT_MODULES = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"),
    *("CPT", "CARTRIDGE", "ADAPTION_PROMPT"),
)
"""Types of adapters that put vectors of their own before prompts: PEFT cannot take them off, and they shift
log-likelihoods."""


def max_rank(pair: Pair) -> int:
    """vLLM's limit for a pair's adapters: the lowest that permits its rank, or its `engine: {max_lora_rank: N}`.

    Raises UserError where vLLM permits none.
    """
    asked = int(pair.engine.get("max_lora_rank", pair.rank))
    for limit in RANKS:
        if asked <= limit:
            return limit
    raise UserError(
        f"pair '{pair.name}': rank {asked} is above {RANKS[-1]}, the highest that vLLM permits; give --engine hf"
    )


def read_adapter(folder: Path) -> dict[str, Any]:
    """An adapter's configuration. Raises UserError where a file of it is missing, it says no type, or adds layers."""
    for name in (CONFIG, "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} there; an adapter is a folder that PEFT saved, as safetensors")
    config = read_settings(folder / CONFIG)
    if not isinstance(config.get("peft_type"), str):
        raise UserError(f"{folder / CONFIG}: key 'peft_type' has to name a type of adapter, such as LORA; {AGAIN}")
    if config["peft_type"].upper() in WITHOUT_MODULES:
        raise UserError(f"{folder / CONFIG}: type {config['peft_type']} adapts no modules; give an adapter that does")
    if config.get("layer_replication"):
        raise UserError(f"{folder / CONFIG}: key 'layer_replication' adds layers to the base model; merge it into one")
    return config


def read_lora(folder: Path) -> dict[str, Any]:
    """A LoRA adapter's configuration. Raises UserError where it is of another type, or its ranks are no numbers."""
    config = read_adapter(folder)
    if config["peft_type"] != "LORA":
        raise UserError(f"{folder}: an adapter of type {config['peft_type']}; vLLM serves LORA only; give --engine hf")
    own = config.get("rank_pattern") or {}
    for key, ranks in (("r", [config.get("r")]), ("rank_pattern", own.values() if isinstance(own, dict) else [own])):
        if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
            raise UserError(f"{folder / CONFIG}: key '{key}' has to give whole numbers above 0; {AGAIN}")
    return config


def check_rank(folder: Path, limit: int) -> None:
    """Raises UserError for an adapter that is missing, or of a higher rank than an engine was started for."""
    config = read_lora(folder)
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    if rank > limit:
        raise UserError(
            f"{folder}: rank {rank} is above the limit of {limit} that vLLM was started with; set "
            f"'engine: {{max_lora_rank: {rank}}}' in the pair's YAML"
        )
