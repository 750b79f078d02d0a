"""Training SAEs with SAELens: BatchTopK, saved as JumpReLU, for several layers in one pass over the text.

Windows of text → a chunk of activations at all layers, shuffled → steps of every layer's SAE → the next chunk. Nothing
is carried from one chunk to the next but the SAEs and their optimisers, so memory does not grow with the text, and
whoever resumes after a chunk gets the same SAEs, to the byte.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

from sails_eval.core.errors import UserError
from sails_eval.core.files import move, read_json, remove, write_json, writing
from sails_eval.core.fingerprint import of_path
from sails_eval.core.progress import bar
from sails_eval.core.schema import Frozen
from sails_eval.methods.subspace.activations import activations
from sails_eval.methods.subspace.sae_quality import Quality, quality
from sails_eval.methods.subspace.text_windows import Window
from sails_eval.models.layers import decoder_layers

CHUNK = 32_768
"""Tokens whose activations are in memory at once, and among which they are shuffled."""

HELD_OUT = 8_192
"""The most tokens that nothing is trained on, at the start of the text: the SAEs are measured there."""

WORK = ".training"
"""Where a training that is not finished keeps its state."""

DEAD_AFTER = 65_536
"""A feature that was not active over so many tokens is dead, and revived by SAELens's auxiliary loss."""

WARM_UP, DECAY = 0.05, 0.3
"""Shares of all steps, at the start and at the end, over which the learning rate rises and falls to a tenth."""


class SaeSettings(Frozen):
    """What a training of SAEs depends on, besides the model and the text."""

    layers: tuple[int, ...] = Field(min_length=1)
    features: int = Field(default=4096, ge=2)
    l0: int = Field(default=36, ge=1, description="features that are active at a token, on average")
    tokens: int = Field(default=400_000, ge=1, description="tokens of text, each read once")
    passes: int = Field(default=2, ge=1, description="times that the SAEs are trained on a chunk's activations")
    batch_size: int = Field(default=1024, ge=2, description="tokens of an optimiser step")
    learning_rate: float = Field(default=3e-3, gt=0)
    context: int = Field(default=512, ge=8, description="longest window of text in tokens")
    seed: int = Field(default=0, ge=0, lt=2**32)

    @model_validator(mode="after")
    def _sparse(self) -> Self:
        if self.l0 >= self.features:
            raise ValueError(f"key 'l0': {self.l0} of {self.features} features cannot be active on average; give fewer")
        return self

    @property
    def steps(self) -> int:
        return max(1, self.samples // self.batch_size)

    @property
    def samples(self) -> int:
        """Tokens that each SAE is trained on, repeated ones included."""
        return self.tokens * self.passes

    @property
    def held_out(self) -> int:
        """A tenth of what is trained on, as far as that is not more than is needed."""
        return min(HELD_OUT, max(1, self.tokens // 10))


@dataclass(frozen=True)
class TrainedSae:
    """The quality of a layer's SAE, as it was saved, on text that it was not trained on, and the share of its features
    that are dead: not active over the last `DEAD_AFTER` tokens of training."""

    quality: Quality
    dead: float


def train_saes(
    model: Any, text: Callable[[], Iterator[Window]], settings: SaeSettings, *, folder: Path, quiet: bool = False
) -> dict[int, TrainedSae]:
    """Train a SAE of the residual stream after each layer of a model.

    Args:
        model: the bare causal LM, in evaluation mode.
        text: the windows to train on, from the start at every call.
        settings: layers, sizes and lengths.
        folder: where the SAEs are saved; a training that was stopped is resumed from its folder `.training`, which
            whoever has written down what is returned removes.

    Returns: how good the SAEs are, by layer. Raises UserError where a SAE is lost, or the kept state damaged.
    """
    sizes, work = _chunk_sizes(settings.tokens), folder / WORK
    groups = grouped(text(), [settings.held_out, *sizes])
    held_out = activations(model, settings.layers, next(groups))
    saes = Saes(model, settings)
    done = saes.resume(work)
    with bar("training SAEs, tokens", settings.tokens, quiet=quiet) as progress:
        progress.update(sum(sizes[:done]))
        # the last chunks may be empty: windows are not cut, so the others hold more
        for number, (size, group) in enumerate(zip(sizes, groups, strict=False)):
            if number >= done:
                rows = activations(model, settings.layers, group)
                for share, note in saes.train(rows, seed=settings.seed + number):
                    progress.update(size * share, note=note)
                saes.save(work, done=number + 1)
    return saes.finish(held_out, folder)


def check_length(text: Iterable[Window], settings: SaeSettings) -> None:
    """Raises UserError where a text is too short to train on so many tokens."""
    ends: list[int] = []  # counted tokens up to the end of every window
    for window in text:
        ends.append(window.tokens + (ends[-1] if ends else 0))
        if ends[-1] >= _held_out(ends, settings.held_out) + settings.tokens:
            return
    found = ends[-1] if ends else 0
    most = found * 10 // 11
    most = min(most, found - _held_out(ends, most // 10))
    raise UserError(
        f"the texts have {found} tokens to learn from, too few for {settings.tokens} to train on and, in whole texts, "
        f"{settings.held_out} to measure the SAEs on; give "
        + f"--tokens {most} or fewer, or " * (most > 0)
        + "longer --texts"
    )


def _held_out(ends: Sequence[int], wanted: int) -> int:
    """Tokens of the first windows, up to the end of the one that makes them as many as wanted."""
    at = bisect_left(ends, wanted)
    return ends[at] if at < len(ends) else 0


def _chunk_sizes(tokens: int) -> list[int]:
    whole, rest = divmod(tokens, CHUNK)
    return [CHUNK] * whole + [rest] * bool(rest)


def grouped(text: Iterable[Window], sizes: Iterable[int]) -> Iterator[list[Window]]:
    """Groups of windows with at least so many counted tokens each, one after the other."""
    windows = iter(text)
    for size in sizes:
        group: list[Window] = []
        while size > 0 and (window := next(windows, None)) is not None:
            group.append(window)
            size -= window.tokens
        if group:
            yield group


class Saes:
    """The SAEs of several layers while they are trained, a SAELens trainer each."""

    def __init__(self, model: Any, settings: SaeSettings) -> None:
        self._settings = settings
        self._hooks = {layer: hook_name(model, layer) for layer in settings.layers}
        width = model.config.get_text_config().hidden_size
        self.trainers = {layer: _trainer(width, layer, settings, str(model.device)) for layer in settings.layers}

    def train(self, rows: Mapping[int, torch.Tensor], *, seed: int) -> Iterator[tuple[float, str]]:
        """Pass over a chunk's activations as often as the settings say, each time in another order.

        Yields after every step its share of the chunk, and how good the SAEs are.
        """
        generator = torch.Generator().manual_seed(seed)
        n, passes = len(rows[self._settings.layers[0]]), self._settings.passes
        steps = max(1, n // self._settings.batch_size)
        for _ in range(passes):
            for batch in torch.randperm(n, generator=generator).tensor_split(steps):
                yield 1 / (passes * steps), self._note([self._step(layer, rows[layer][batch]) for layer in rows])

    def _step(self, layer: int, batch: torch.Tensor) -> float:
        """The share of the variance that was explained before the step."""
        trainer = self.trainers[layer]
        if trainer.activation_scaler.scaling_factor is None:
            _start_at(trainer, batch)
        trainer.maybe_reset_sparsity()
        output = trainer.step(batch)
        trainer.n_training_steps += 1
        if not output.loss.isfinite():
            raise UserError(
                f"the SAE of layer {layer} is lost: its loss is {output.loss.item()}; lower --learning-rate"
            )
        with torch.no_grad():
            left = (output.sae_out - output.sae_in).square().sum()
            return 1 - float(left / (output.sae_in - output.sae_in.mean(0)).square().sum())

    def _note(self, explained: Sequence[float]) -> str:
        dead = [float(trainer.dead_neurons.float().mean()) for trainer in self.trainers.values()]
        return (
            f"{_span(explained)} of the variance explained, L0 {self._settings.l0}, {_span(dead)} of the features dead"
        )

    def save(self, work: Path, *, done: int) -> None:
        """Keep the state after so many chunks, and no earlier one."""
        new = work / "new"
        with writing(work):
            remove(new)
            for layer, trainer in self.trainers.items():
                trainer.save_checkpoint(str(layer), base_path=new)
            older = list(work.glob("chunk-*"))
            move(new, work / f"chunk-{done:06d}-{of_path(new)}")
            for folder in older:
                remove(folder)

    def resume(self, work: Path) -> int:
        """Take up the state that was kept, if any; how many chunks are done. Raises UserError where it is damaged."""
        kept = max(work.glob("chunk-*"), default=None)
        if kept is None:
            return 0
        done, _, known = kept.name.removeprefix("chunk-").partition("-")
        if of_path(kept) != known:
            raise UserError(f"{kept}: changed or damaged since it was written; delete {work} to train from the start")
        for layer, trainer in self.trainers.items():
            trainer.load_trainer_state(kept / str(layer))
            trainer.sae.load_weights_from_checkpoint(kept / str(layer))
        return int(done)

    def finish(self, held_out: Mapping[int, torch.Tensor], folder: Path) -> dict[int, TrainedSae]:
        """Save every SAE in `layer_N`, its scale folded into the weights, and measure what was saved."""
        return {layer: self._finish(layer, held_out[layer], folder / f"layer_{layer}") for layer in self.trainers}

    def _finish(self, layer: int, held_out: torch.Tensor, folder: Path) -> TrainedSae:
        trainer = self.trainers[layer]
        sae, dead = trainer.sae, _dead(trainer)
        sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
        with writing(folder):
            remove(folder)
            _, config = sae.save_inference_model(folder)
        found = quality(SAE.load_from_disk(str(folder)).to(held_out.device), held_out)
        told = read_json(config)
        told["metadata"] |= {
            "hook_name": self._hooks[layer],
            "l0": round(found.l0, 2),
            "explained_variance": round(found.explained, 4),
            "num_dead_features": int(dead.sum()),
            "context_size": self._settings.context,
            "training_tokens": self._settings.samples,
        }
        write_json(config, told, sort_keys=True)  # SAELens writes them in an order that changes from run to run
        return TrainedSae(found, float(dead.float().mean()))


def _trainer(width: int, layer: int, settings: SaeSettings, device: str) -> Any:
    """SAELens's trainer of one layer's SAE."""
    torch.manual_seed(settings.seed + layer)
    sae = BatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(
            d_in=width,
            d_sae=settings.features,
            k=settings.l0,
            device=device,
            normalize_activations="expected_average_only_in",
            topk_threshold_lr=max(0.01, 5 / settings.steps),  # an average over the steps, which a few must do for
        )
    )
    config = SAETrainerConfig(
        total_training_samples=settings.steps * settings.batch_size,
        train_batch_size_samples=settings.batch_size,
        lr=settings.learning_rate,
        lr_end=settings.learning_rate / 10,
        lr_warm_up_steps=round(WARM_UP * settings.steps),
        lr_decay_steps=round(DECAY * settings.steps),
        dead_feature_window=max(1, DEAD_AFTER // settings.batch_size),
        device=device,
    )
    return SAETrainer(cfg=config, sae=sae, data_provider=iter(()))


def _dead(trainer: Any) -> torch.Tensor:
    """Which features [n] were not active over the last `DEAD_AFTER` tokens, or in all of a shorter training."""
    found: torch.Tensor = trainer.n_forward_passes_since_fired >= min(
        trainer.cfg.dead_feature_window + 1, trainer.n_training_steps
    )
    return found


def _start_at(trainer: Any, rows: torch.Tensor) -> None:
    """Scale activations to a mean norm of √d_model, from a sample [n, d_model], and start at their mean."""
    trainer.activation_scaler.scaling_factor = rows.shape[1] ** 0.5 / float(rows.norm(dim=1).mean())
    with torch.no_grad():
        trainer.sae.b_dec.copy_(trainer.activation_scaler(rows).mean(0))


def hook_name(model: Any, layer: int) -> str:
    """The name of a decoder layer in the model, whose output a SAE reads."""
    module = decoder_layers(model)[layer]
    names: list[str] = [name for name, one in model.named_modules() if one is module]
    return names[0]


def _span(shares: Sequence[float]) -> str:
    low, high = min(shares), max(shares)
    return f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
