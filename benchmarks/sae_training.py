"""What `sails-eval saes train` costs beside what it cannot do without.

    python benchmarks/sae_training.py                       # a random Llama of SmolLM2's width with 12 layers
    python benchmarks/sae_training.py --model FOLDER --layers 6,12,18,24

The least is a bare forward pass over the same windows, in the same batches and up to the same layer, and SAELens's own
training step for every batch of every layer. CPU seconds of this process, each the least of `--repeats`, and the ratio.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from sails_eval.core.names import names
from sails_eval.methods.subspace.activations import like_long, padded, residual_streams
from sails_eval.methods.subspace.sae_training import Saes, SaeSettings, grouped, train_saes
from sails_eval.methods.subspace.text_windows import Window

WIDTH, LAYERS, VOCABULARY = 576, 12, 1000


def random_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": WIDTH, "intermediate_size": 1536, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=9, num_key_value_heads=3)).eval()


def texts(vocabulary: int, tokens: int) -> list[Window]:
    """Random windows of 16 to 256 tokens, so many tokens in all."""
    generator = torch.Generator().manual_seed(0)
    found: list[Window] = []
    while tokens > 0:
        n = int(torch.randint(16, 257, (), generator=generator))
        found.append(Window(torch.randint(vocabulary, (n,), generator=generator).tolist()))
        tokens -= found[-1].tokens
    return found


@torch.inference_mode()
def forward(model: Any, layers: Sequence[int], windows: Sequence[Window]) -> None:
    for batch in like_long(windows, lambda window: len(window.ids)):
        ids, mask = padded([list(window.ids) for window in batch], model.device)
        residual_streams(model, layers, ids, mask)


def steps(model: Any, settings: SaeSettings) -> None:
    """SAELens's training steps alone, on vectors that are there already."""
    trainers = Saes(model, settings).trainers.values()
    vectors = torch.randn(settings.batch_size, model.config.hidden_size)
    for trainer in trainers:
        for _ in range(settings.steps):
            trainer.step(vectors)
            trainer.n_training_steps += 1


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a model (default: a random one)")
    parser.add_argument("--layers", type=names, default=("3", "6", "9"))
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    model = random_model()
    if options.model:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    layers = tuple(map(int, options.layers))
    settings = SaeSettings(layers=layers, features=options.features, tokens=options.tokens, passes=1)
    windows = texts(model.config.vocab_size, 2 * options.tokens)
    seen = [window for group in grouped(windows, [settings.held_out, options.tokens]) for window in group]

    def whole() -> None:
        with tempfile.TemporaryDirectory() as folder:
            train_saes(model, lambda: iter(windows), settings, folder=Path(folder), quiet=True)

    found = {
        "forward pass": cpu_seconds(lambda: forward(model, layers, seen), options.repeats),
        "SAELens's steps": cpu_seconds(lambda: steps(model, settings), options.repeats),
        "saes train": cpu_seconds(whole, options.repeats),
    }
    print("| work | CPU seconds |\n| --- | --- |")
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.1f} |")
    least = found["forward pass"] + found["SAELens's steps"]
    print(f"\nratio: {found['saes train'] / least:.2f}")


if __name__ == "__main__":
    main()
