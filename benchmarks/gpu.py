"""What training takes on a GPU, at the shape of a real model with random weights, against what `sails-eval plan` says.

    python benchmarks/gpu.py --out gpu.json           # Gemma-2-2B in bf16: needs a GPU of 80 GB, and no hub
    python benchmarks/gpu.py --tiny --out tiny.json   # the same code on a small shape, on a CPU, to see that it runs

Feature collection, then steps of `lora`, `sails` and `full`, all by the package's own code. Tokens a second are the
difference between a short and a long run, so that what happens once does not count. Peak memory is the GPU allocator's
(on a CPU the whole process's, which is no match for an estimate of tensors). Status 1 if an estimate is off by more
than 15 % on a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
from transformers import AutoModelForCausalLM

from sails_eval.core.files import write_json
from sails_eval.core.pair import Pair, load_pair
from sails_eval.core.recipe import load_recipe
from sails_eval.core.tables import markdown
from sails_eval.methods.sails import get_sails_state_dict
from sails_eval.methods.subspace.contrast import Contrast, Text
from sails_eval.methods.subspace.layers import sae_layer
from sails_eval.models.base import Base, load_tokenizer
from sails_eval.plan.cost.meta_model import Shape, shape_of
from sails_eval.plan.cost.step_cost import features_memory, sae_width, step_cost
from sails_eval.run.workers import quiet_libraries
from sails_eval.training.batches import CellRun, TokenRow
from sails_eval.training.cell import peak_memory, reset_peak_memory, train_cell
from sails_eval.training.cost import TrainingCost

TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16,
}  # fmt: skip
CLOSE = 0.15
SHORT = 2
"""Steps of the run that is taken off the long one's time; AdamW has its states from the first on."""


@dataclass(frozen=True)
class Measured:
    """A stage as it was measured, and how much memory was foretold."""

    stage: str
    tokens_per_second: float
    peak_bytes: int
    foretold_bytes: int

    @property
    def ratio(self) -> float:
        """Foretold over measured."""
        return self.foretold_bytes / self.peak_bytes

    @property
    def cells(self) -> list[str]:
        """Its row of the table."""
        sizes = [f"{size / 2**30:.2f}" for size in (self.peak_bytes, self.foretold_bytes)]
        return [self.stage, f"{self.tokens_per_second:,.0f}", *sizes, f"{self.ratio:.2f}"]


def sized(name: str, *, tiny: bool) -> tuple[Pair, Shape]:
    """A pair and its model's shape; `tiny` makes both small but for the layers, which the SAEs' places need."""
    pair = load_pair(name)
    shape = shape_of(pair)
    if tiny:
        for key, value in TINY.items():
            setattr(shape.text, key, value)
        small = {"dtype": "float32", "max_length": 32, "batch_size": 4, "micro_batch_size": 2}
        pair = pair.model_copy(update=small)
    return pair, shape


def random_model(pair: Pair, shape: Shape) -> Base:
    """The shape with random weights, and a tokenizer that the trainer wants and nobody uses."""
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {"attn_implementation": pair.attn_implementation} if pair.attn_implementation else {}
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(shape.config, dtype=getattr(torch, pair.dtype), **options)
    return Base(model.requires_grad_(False).eval(), load_tokenizer(load_pair("testbed")))


def random_saes(pair: Pair, base: Base) -> dict[int, Any]:
    """Random SAEs of the widths and at the layers of the pair's own."""
    saes = {}
    width = base.model.config.get_text_config().hidden_size
    for source in pair.saes:
        layer = sae_layer(source)
        assert layer is not None
        device = str(base.model.device)
        sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=width, d_sae=sae_width(source, width), device=device))
        torch.nn.init.normal_(sae.W_dec)
        torch.nn.init.normal_(sae.W_enc)
        saes[layer] = sae
    return saes


def random_ids(shape: Shape, n: int, length: int) -> list[list[int]]:
    """Token ids without special ones."""
    made = torch.Generator().manual_seed(0)
    ids: list[list[int]] = torch.randint(10, shape.text.vocab_size, (n, length), generator=made).tolist()
    return ids


def features(pair: Pair, shape: Shape, base: Base, *, texts: int) -> tuple[Measured, Mapping[str, torch.Tensor]]:
    """Feature collection over `texts` pairs of the longest texts, and the state that SAILS starts from."""
    length = pair.max_length
    sides = random_ids(shape, 2 * texts, length)
    made = [Text(ids, range(length // 2, length)) for ids in sides]
    contrast = Contrast(made[:texts], made[texts:])
    saes = random_saes(pair, base)
    reset_peak_memory()
    before = time.perf_counter()
    state, _ = get_sails_state_dict(base.model, saes, contrast)
    seconds, peak = time.perf_counter() - before, peak_memory()
    total = sum(weight.numel() for weight in base.model.parameters())
    foretold = features_memory(shape, pair, parameters=total).peak
    return Measured("SAE features", contrast.tokens / seconds, peak, foretold), state


def steps(method: str, pair: Pair, shape: Shape, base: Base, *, state: Mapping[str, torch.Tensor], n: int) -> Measured:
    """`n` steps of a recipe on the longest examples, without the time of a shorter run."""
    recipe = load_recipe(method)
    rows = [TokenRow(ids, ids) for ids in random_ids(shape, n * pair.batch_size, pair.max_length)]
    assert recipe.learning_rate
    records: list[TrainingCost] = []
    with tempfile.TemporaryDirectory() as folder:
        for taken in (SHORT, SHORT, n):  # the first one warms up
            run = CellRun(recipe.learning_rate.low, 0, list(range(taken * pair.batch_size)), state)
            records.append(train_cell(base, pair, recipe, rows=rows, run=run, folder=Path(folder) / str(len(records))))
    _, short, long = records
    speed = (long.tokens - short.tokens) / (long.seconds - short.seconds)
    return Measured(method, speed, long.peak_memory_bytes, step_cost(shape, pair, recipe).memory.peak)


def measure(name: str, *, tiny: bool, n: int, texts: int) -> list[Measured]:
    """All stages, one after the other, on one model."""
    pair, shape = sized(name, tiny=tiny)
    base = random_model(pair, shape)
    collected, state = features(pair, shape, base, texts=texts)
    torch.cuda.empty_cache()
    return [collected, *(steps(m, pair, shape, base, state=state, n=n) for m in ("lora", "sails", "full"))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default="gemma-2-2b", help="whose shape (default: gemma-2-2b)")
    parser.add_argument("--tiny", action="store_true", help="small widths, to see that it runs")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help=f"more than {SHORT} (default: 8)")
    parser.add_argument("--texts", type=int, default=64, metavar="N", help="pairs of contrast texts (default: 64)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    options = parser.parse_args()
    quiet_libraries()
    found = measure(options.pair, tiny=options.tiny, n=options.steps, texts=options.texts)
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else "CPU"
    print(f"{options.pair}{', tiny' if options.tiny else ''} on {device}, torch {torch.__version__}\n")
    header = ["stage", "tokens a second", "peak, GiB", "foretold, GiB", "foretold / measured"]
    print(markdown(header, [one.cells for one in found]), end="")
    stages = [{**asdict(one), "ratio": one.ratio} for one in found]
    write_json(options.out, {"device": device, "pair": options.pair, "stages": stages})
    return int(gpu and any(abs(one.ratio - 1) > CLOSE for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
