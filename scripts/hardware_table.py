"""The hardware table of the documentation: `python scripts/hardware_table.py > docs/hardware.md`.

Every figure is the estimate that `sails-eval plan --pair NAME` prints, for the default methods, rates and seeds. It
takes about 20 CPU-seconds for each pair and asks no hub.
"""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from sails_eval.core.comparison import CompareConfig
from sails_eval.plan.cost.forecast import Forecast, forecast
from sails_eval.plan.cost.hours import PEAK, UTILISATION

PAIRS = ("gemma-2-2b", "gemma-3-4b", "llama-3.1-8b", "qwen3-8b", "gemma-2-9b")

GPUS = (16, 24, 40, 48, 80, 96, 141, 192)
"""Sizes of GPU memory, in GB as vendors name them."""

USABLE = 0.95
"""The share of a GPU's nominal memory that a process gets, with 1 GB taken as 1 GiB."""

GIB = 2**30

GPU = "A100"
"""That hours are estimated for."""

HEADER = f"""\
# Hardware table

This table estimates what a comparison with the defaults takes: methods `sails`, `lora` and `full`, six learning rates,
five seeds. **None of these figures is measured** ([how they are computed](pairs.md#plan)). `sails-eval plan` prints the
same for your own flags (hours for the GPU of the machine, or for an RTX 4090). Fewer seeds, learning rates or methods
take less time and disk; smaller micro-batches, shorter examples and gradient checkpointing take less memory. The
testbed needs no GPU.

- *Memory* is the estimated peak of the longest micro-batch: the largest of training, SAE features and answering.
  *GPU* is the smallest common GPU memory of which 95 % is enough.
- *Adapters* are `sails` and `lora`; *with `full`* includes training every weight.
- *FLOPs* are those of training in all cells, without padding. *Hours* are these at {UTILISATION:.0%} of the
  {PEAK[GPU]} TFLOP/s of one {GPU}, without loading, answering and judging.
- *Disk* holds the checkpoints of all cells until learning rates are chosen; *kept* is what `--keep best` leaves.

| pair | memory: adapters | GPU | memory: with `full` | GPU | training FLOPs | hours | disk | kept |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""


def row(made: Forecast) -> str:
    """A line of the table."""
    without_full = max(memory.peak for stage, memory in made.stages.items() if stage != "full")
    whole = max(memory.peak for memory in made.stages.values())
    flops = sum(made.flops_per_token(recipe.name) for recipe in made.recipes) * made.pair.tokens * made.cells
    disk, kept = made.disk
    cells = [f"`{made.pair.name}`", _gib(without_full), _gpu(without_full), _gib(whole), _gpu(whole), f"{flops:.1e}"]
    cells.append(f"{flops / (UTILISATION * PEAK[GPU] * 1e12) / 3600:.1f}")
    return "| " + " | ".join([*cells, _gib(disk), _gib(kept)]) + " |"


def _gib(n: float) -> str:
    return f"{n / GIB:.1f} GiB" if n >= GIB / 10 else f"{n / 2**20:.0f} MiB"


def _gpu(peak: int) -> str:
    return next((f"{size} GB" for size in GPUS if peak <= USABLE * size * GIB), "several")


def main() -> None:
    print(HEADER)
    for name in PAIRS:
        print(*map(row, forecast(CompareConfig(pair=name))), sep="\n", flush=True)
    print("\nMade by `python scripts/hardware_table.py`.")


if __name__ == "__main__":
    main()
