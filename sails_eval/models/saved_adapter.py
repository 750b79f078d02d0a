"""What can be known of an adapter from its files: whether it is there, and whether an engine will take its rank."""

from pathlib import Path
from typing import Any

from sails_eval.core.errors import UserError, foreign
from sails_eval.core.files import read_json
from sails_eval.core.pair import Pair

CONFIG = "adapter_config.json"
CHECKPOINT = "checkpoint"
"""The folder of an adapter, or of a whole model, in the folder of the cell that it was trained for."""

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The limits that vLLM permits (its `MaxLoRARanks`; 1 is too small for any warm-up to be worth it)."""


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
    """A LoRA adapter's configuration. Raises UserError where a file of it is missing, or it is of another type."""
    for name in (CONFIG, "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} there; an adapter is a folder that PEFT saved, as safetensors")
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise UserError(
            f"{folder}: an adapter of type {config.get('peft_type')}; vLLM serves LORA only; give --engine hf"
        )
    return config


def check_rank(folder: Path, limit: int) -> None:
    """Raises UserError for an adapter that is missing, or of a higher rank than an engine was started for."""
    config = read_adapter(folder)
    with foreign(f"{folder / CONFIG}: its ranks cannot be read"):
        rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    if rank > limit:
        raise UserError(
            f"{folder}: rank {rank} is above the limit of {limit} that vLLM was started with; set "
            f"'engine: {{max_lora_rank: {rank}}}' in the pair's YAML"
        )
