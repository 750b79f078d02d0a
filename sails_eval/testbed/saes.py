"""Train the testbed's SAEs with SAELens, one for the residual stream after each layer, in three qualities."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from safetensors.torch import load_file, save_file

from sails_eval.core.files import read_json, write_json
from sails_eval.methods.subspace.activations import residual_streams
from sails_eval.testbed.corpus import pretraining_text
from sails_eval.testbed.train import batches, encode_text

ACTIVE = 12.0
BATCH = 1024
SAE_TEXTS = 8192


@dataclass(frozen=True)
class Quality:
    """How good a SAE is made: its features, and the steps it is trained for."""

    width: int
    steps: int


QUALITIES = {"good": Quality(512, 600), "undertrained": Quality(512, 100), "narrow": Quality(64, 600)}


@torch.inference_mode()
def activations(model: Any, tokenizer: Any, *, texts: int, seed: int) -> dict[int, torch.Tensor]:
    """Residual stream activations [tokens, d_model] after every layer, without BOS and padding."""
    layers = range(model.config.num_hidden_layers)
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    data = batches(lambda rng: encode_text(tokenizer, pretraining_text(rng)), steps=texts // 64, size=64, seed=seed)
    for batch in data:
        keep = batch["attention_mask"].bool()
        keep[:, 0] = False  # BOS: an outlier that would eat the reconstruction loss
        for layer, stream in residual_streams(model, layers, batch["input_ids"], batch["attention_mask"]):
            found[layer].append(stream[keep])
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def train_sae(vectors: torch.Tensor, layer: int, *, quality: Quality, folder: Path) -> dict[str, float]:
    """Train a BatchTopK SAE on vectors [n, d_model] and save it (as JumpReLU); explained variance and L0."""
    torch.manual_seed(layer)
    config = BatchTopKTrainingSAEConfig(
        d_in=vectors.shape[1], d_sae=quality.width, k=ACTIVE, device="cpu", normalize_activations="none"
    )
    sae = BatchTopKTrainingSAE(config)
    sae.cfg.metadata.hook_name = f"model.layers.{layer}"
    sae.cfg.metadata.model_name = "sails-eval testbed"
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=quality.steps * BATCH,
            train_batch_size_samples=BATCH,
            lr=2e-3,
            lr_end=2e-4,
            lr_decay_steps=quality.steps // 3,
            dead_feature_window=200,
            n_batches_for_norm_estimate=10,
        ),
        sae=sae,
        data_provider=_shuffled(vectors, layer),
    )
    trained = trainer.fit()
    weights_file, config_file = trained.save_inference_model(str(folder))
    save_file({name: weight.half() for name, weight in load_file(weights_file).items()}, weights_file)
    # SAELens writes the keys in an order that changes from run to run
    write_json(config_file, read_json(config_file), sort_keys=True)
    return measure(folder, vectors[:: max(1, len(vectors) // 20_000)])


@torch.inference_mode()
def measure(folder: Path, vectors: torch.Tensor) -> dict[str, float]:
    """Share of variance explained, mean number of active features, and share of features that are ever active."""
    sae = SAE.load_from_disk(str(folder))
    features = sae.encode(vectors)
    residual = (vectors - sae.decode(features)).pow(2).sum()
    total = (vectors - vectors.mean(0)).pow(2).sum()
    return {
        "explained_variance": round(1 - (residual / total).item(), 4),
        "l0": round((features > 0).sum(1).float().mean().item(), 2),
        "alive": round((features > 0).any(0).float().mean().item(), 4),
    }


def _shuffled(vectors: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
    rng = random.Random(seed)
    while True:
        order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(rng.randrange(2**31)))
        for start in range(0, len(vectors) - BATCH + 1, BATCH):
            yield vectors[order[start : start + BATCH]]
