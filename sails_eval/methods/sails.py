"""SAILS: LoRA initialised with the safety subspace that SAE decoder directions span (arXiv 2512.23260).

Contrast texts → SAE feature statistics → the k features that differ most → their unit decoder directions → the
singular vectors that keep 80 % of the variance → an orthonormal basis per layer, which initialises LoRA on the side
where a module touches the residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sails_eval.core.errors import UserError
from sails_eval.methods.base import Flops, FromContrast, Material, Report, State
from sails_eval.methods.subspace.contrast import Contrast
from sails_eval.methods.subspace.saes import check_widths
from sails_eval.methods.subspace.settings import Placement

if TYPE_CHECKING:
    import torch

    from sails_eval.methods.subspace.activations import LayerSide, Moments


class SAILS(FromContrast):
    """The state has the bases of all layers that have a SAE, the report which features they came from."""

    class Settings(FromContrast.Settings):
        """The choices in SAILS: the paper gives `score: abs` (in digests) and `variance`, and leaves the rest open."""

        saes: str | None = Field(
            default=None, description="one of the pair's 'sae_sets'; null (default): the pair's 'saes'"
        )
        score: Literal["abs", "positive", "negative", "relative", "t", "random"] = Field(
            default="abs",
            description="features by |difference| (abs, default; after digests of the paper), by how much stronger "
            "they are on aligned (positive) or unaligned texts (negative), by |difference| / mean on unaligned "
            "(relative), or by |t| of the per-text means: paired over answers to the same request, Welch's over "
            "requests; random, a control, draws from the features that are ever on, the same for all seeds",
        )
        k: int = Field(default=32, ge=1, description="features per layer; default 32, not specified by the paper")
        output_filter: int = Field(
            default=1,
            ge=1,
            description="of so many times k features by score, the k that change the next token most when steered "
            "along are kept (see subspace.output_effects); default 1: no filter, and none in the paper",
        )
        decoder: Literal["own", "permuted"] = Field(
            default="own",
            description="permuted, a control: each feature has the decoder direction of another, the same for all "
            "seeds",
        )
        variance: float = Field(
            default=0.8, gt=0, le=1, description="share that the singular vectors keep; default 0.8, after the paper"
        )
        centred: bool = Field(
            default=False,
            description="take the mean of the chosen unit directions away before the SVD: the basis then spans how "
            "they differ, and not what they share; default false, not specified by the paper",
        )

    settings: Settings
    needs = frozenset({"saes", "contrast"})

    @property
    def sae_set(self) -> str | None:
        return self.settings.saes

    def prepare(self, material: Material) -> tuple[State, Report]:
        return get_sails_state_dict(material.model, material.saes, material.contrast, settings=self.settings)

    def cost(self, flops: Flops) -> float:
        """Besides what is contrasted, every feature that an output filter tries is steered along."""
        from sails_eval.methods.subspace.output_effects import TEXTS

        told, contrasting = self.settings, super().cost(flops)
        if told.output_filter == 1:
            return contrasting
        asked = [text.ids[: text.answer.start or None] for text in flops.contrast.aligned[:TEXTS]]
        return contrasting + flops.saes * told.k * told.output_filter * flops.walking(asked, at_a_time=TEXTS)


@dataclass(frozen=True)
class Differences:
    """A layer's mean activations × decoder norms on either class, and the error of their difference; each [d_sae]."""

    aligned: torch.Tensor
    unaligned: torch.Tensor
    error: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        return self.aligned - self.unaligned


def get_sails_state_dict(
    model: Any, saes: Mapping[int, Any], contrast: Contrast, *, settings: SAILS.Settings | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Find the safety subspace of every layer that has a SAE.

    Args:
        model: the bare causal LM, in evaluation mode.
        saes: SAELens SAE of the residual stream after each layer, by the layer's number.
        contrast: tokenised aligned and unaligned texts.
        settings: which tokens count, how features are scored and how many are kept.

    Returns:
        `{"layers.{l}": U}` with U of shape [d_model, m], orthonormal columns, strongest first; and a report that has
        for each layer the chosen features, their differences, the Jaccard index of the features chosen on either half
        of the texts (`split_half_jaccard`), and how many singular vectors the variance asks for (`tau_dim`).

    Raises:
        UserError: a SAE's width is not the model's, or there is nothing to contrast.
    """
    from sails_eval.methods.subspace.activations import merged
    from sails_eval.methods.subspace.basis import orthonormal_basis, unit
    from sails_eval.methods.subspace.output_effects import output_effects

    settings = settings or SAILS.Settings()
    if not (contrast.aligned and contrast.unaligned):
        raise UserError("SAILS needs contrast data: aligned and unaligned texts")
    check_widths(model, saes)
    halves = contrast.halves()
    parts = [_moments(model, saes, half, settings) for half in halves]
    whole = merged(*parts)
    splits = all(half.aligned and half.unaligned for half in halves)
    state, report = {}, {}
    for layer, sae in sorted(saes.items()):
        differences = feature_differences(whole, layer)
        chosen = choose_features(differences, settings)
        if not len(chosen):
            raise UserError(
                "no SAE feature tells the aligned from the unaligned contrast texts; are they alike? "
                "(score: t takes two texts of either kind)"
            )
        directions = unit(_decoder(sae, settings)[chosen])
        if settings.output_filter > 1:
            effects = output_effects(model, layer, directions.to(model.device), contrast.aligned)
            kept = effects.argsort(descending=True, stable=True)[: settings.k].sort().values
            chosen, directions = chosen[kept], directions[kept]
        basis = orthonormal_basis(directions, variance=settings.variance, centred=settings.centred)
        state[f"layers.{layer}"] = basis
        chosen_by_half = (choose_features(feature_differences(part, layer), settings).tolist() for part in parts)
        report[str(layer)] = {
            "features": chosen.tolist(),
            "difference": [round(value, 6) for value in differences.mean[chosen].tolist()],
            "split_half_jaccard": jaccard(*chosen_by_half) if splits else None,
            "tau_dim": basis.shape[1],
        }
    return state, report


def initialize_lora_sails_weights(
    model: Any,
    sails_state_dict: Mapping[str, torch.Tensor],
    *,
    adapter_name: str = "default",
    settings: Placement | None = None,
    seed: int = 0,
) -> None:
    """Initialise the LoRA weights of a `PeftModel` with SAILS, in place (as PEFT's `initialize_lora_eva_weights`).

    By default every module that writes to or reads from the residual stream at a layer with a basis starts from it, on
    its side of the stream and with zeros on the other, so that no logit changes; a basis wider than the rank is cut and
    a narrower one filled at random, which keeps the trainable parameters equal to LoRA's; other modules keep PEFT's
    initialisation. `settings` (a `Settings` of SAILS will do) and errors: see `subspace.basis`.
    """
    from sails_eval.methods.subspace.basis import initialise

    initialise(model, sails_state_dict, settings=settings or Placement(), seed=seed, adapter_name=adapter_name)


def choose_features(differences: Differences, settings: SAILS.Settings) -> torch.Tensor:
    """The indices of the k features with the highest score, best first.

    Only features that differ at all are chosen, so there may be fewer than k of them.
    """
    import torch

    from sails_eval.methods.subspace.basis import EPSILON, random_columns

    difference = differences.mean
    score = {
        "abs": difference.abs(),
        "positive": difference,
        "negative": -difference,
        "relative": difference.abs() / (differences.unaligned.abs() + EPSILON),
        "t": difference.abs() / (differences.error + EPSILON),
        "random": random_columns(len(difference), 1, seed="random features")[:, 0].abs() * (difference != 0),
    }[settings.score]
    best = torch.argsort(score.nan_to_num(0.0), descending=True, stable=True)[: settings.k * settings.output_filter]
    return best[score[best] > 0]


def _decoder(sae: Any, settings: SAILS.Settings) -> torch.Tensor:
    """The decoder directions [d_sae, d_model], or those of a SAE whose features have got one another's."""
    from sails_eval.methods.subspace.basis import random_columns

    rows: torch.Tensor = sae.W_dec.detach().float().cpu()
    if settings.decoder == "permuted":
        rows = rows[random_columns(len(rows), 1, seed="permuted decoder")[:, 0].argsort()]
    return rows


def feature_differences(found: Mapping[LayerSide, Moments], layer: int) -> Differences:
    """The means of both classes at a layer, with the standard error of their difference.

    That is the error of the mean of paired differences, where there are any, else Welch's; NaN where there are too few
    texts to tell.
    """
    aligned, unaligned = found[layer, "aligned"], found[layer, "unaligned"]
    paired = found.get((layer, "difference"))
    variance = paired.variance_of_mean if paired else aligned.variance_of_mean + unaligned.variance_of_mean
    return Differences(aligned.mean.float(), unaligned.mean.float(), variance.sqrt().float())


def jaccard(one: list[int], other: list[int]) -> float | None:
    """The share of what either has that both have; None where they have nothing."""
    either = {*one, *other}
    return round(len({*one} & {*other}) / len(either), 6) if either else None


def _moments(
    model: Any, saes: Mapping[int, Any], contrast: Contrast, settings: SAILS.Settings
) -> dict[LayerSide, Moments]:
    """Moments over texts of each text's mean activation × decoder norm."""
    from sails_eval.methods.subspace.activations import contrast_means, moments

    norms = {layer: sae.W_dec.detach().norm(dim=1) for layer, sae in saes.items()}

    def read(layer: int, vectors: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = saes[layer].encode(vectors.to(norms[layer].dtype)) * norms[layer]
        return features

    return moments(contrast_means(model, sorted(saes), contrast, positions=settings.positions, read=read))
