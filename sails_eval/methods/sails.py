"""SAILS: LoRA initialised with the safety subspace that SAE decoder directions span (arXiv 2512.23260).

Contrast texts → SAE feature statistics → the k features with the largest |t| → their decoder directions, each as
long as its feature differs → their singular vectors, strongest first → an orthonormal basis per layer, which
initialises LoRA on the side where a module touches the residual stream. Summaries of the paper take the
features that differ most, unit directions and the singular vectors that keep 80 % of the variance: `sails-literal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from sails_eval.core.errors import UserError
from sails_eval.methods.base import Flops, FromContrast, Material, Report, State
from sails_eval.methods.subspace.contrast import Contrast
from sails_eval.methods.subspace.saes import check_width
from sails_eval.methods.subspace.settings import Placement, SpanSettings

if TYPE_CHECKING:
    import torch

    from sails_eval.methods.subspace.activations import LayerSide, Moments


class SAILS(FromContrast):
    """The state has the bases of all layers that have an SAE, the report which features they came from."""

    class Settings(FromContrast.Settings, SpanSettings):
        """The choices in SAILS: summaries of the paper give `score: abs` and `variance: 0.8`, and leave the rest."""

        saes: str | None = Field(
            default=None, description="one of the pair's 'sae_sets'; null (default): the pair's 'saes'"
        )
        score: Literal["t", "abs", "positive", "negative", "relative", "random"] = Field(
            default="t",
            description="features by |t| of the per-text means (default; not specified by the paper): paired over "
            "answers to the same request, Welch's over requests; by |difference| (abs; after summaries of the paper), "
            "by how much stronger they are on aligned (positive) or unaligned texts (negative), or by |difference| / "
            "mean on unaligned (relative); random, a control, draws from the features that are ever active, the same "
            "for all seeds",
        )
        k: Annotated[int, Field(ge=1)] | Literal["rank"] = Field(
            default=32,
            description="features per layer; default 32, not specified by the paper; rank: as many as the rank has",
        )
        weights: Literal["delta", "none"] = Field(
            default="delta",
            description="delta (default; not specified by the paper): every unit direction is multiplied by how far "
            "its feature's mean activation × decoder norm differs, so that the SVD orders by what was found; none: an "
            "SVD of unit directions, in which the weakest feature counts as much as the strongest",
        )
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
        readers: Literal["decoder", "encoder"] = Field(
            default="decoder",
            description="the chosen features' directions from which modules start that read the residual stream: "
            "decoder (default; as in the paper), or encoder, along which the SAE reads a feature; those that write to "
            "it start from decoder directions",
        )

    settings: Settings
    needs = frozenset({"saes", "contrast"})

    @property
    def sae_set(self) -> str | None:
        return self.settings.saes

    def prepare(self, material: Material) -> tuple[State, Report]:
        settings = at_rank(self.settings, material)
        return get_sails_state_dict(material.model, material.saes, material.contrast, settings=settings)

    def cost(self, flops: Flops) -> float:
        """Besides what is contrasted, every feature that an output filter tries is steered along."""
        from sails_eval.methods.subspace.output_effects import TEXTS

        contrasting = super().cost(flops)
        if self.settings.output_filter == 1:
            return contrasting
        asked = [text.ids[: text.answer.start or None] for text in flops.contrast.aligned[:TEXTS]]
        walks = scored(at_rank(self.settings, flops)) + 1  # one without steering
        return contrasting + flops.saes * walks * flops.walking(asked, at_a_time=TEXTS)


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
    """Find the safety subspace of every layer that has an SAE.

    Args:
        model: the bare causal LM, in evaluation mode.
        saes: SAELens SAE of the residual stream after each layer, by the layer's number.
        contrast: tokenised aligned and unaligned texts.
        settings: which tokens count, how features are scored and how many are kept.

    Returns:
        `{"layers.{l}": U}` with U of shape [d_model, m], orthonormal columns, strongest first, and `layers.{l}.read`
        where readers have their own; and a report that has for each layer the chosen features, their differences, the
        Jaccard index of the features chosen on either half of the texts (`split_half_jaccard`), the share of all
        directions that the first columns hold (`energy`), and how many of them hold 80 % (`tau_dim`).

    Raises:
        UserError: an SAE's width is not the model's, there is nothing to contrast, or `k` is `rank`.
    """
    from sails_eval.methods.subspace.activations import merged
    from sails_eval.methods.subspace.basis import unit
    from sails_eval.methods.subspace.output_effects import output_effects

    settings = settings or SAILS.Settings()
    if not (contrast.aligned and contrast.unaligned):
        raise UserError("SAILS needs contrast data: aligned and unaligned texts")
    n = scored(settings)
    for layer, sae in saes.items():
        check_width(model.config.get_text_config(), layer, sae.cfg.d_in)
    halves = contrast.halves()
    parts = [_moments(model, saes, half, settings) for half in halves]
    whole = merged(*parts)
    splits = all(half.aligned and half.unaligned for half in halves)
    state: dict[str, torch.Tensor] = {}
    report: dict[str, Any] = {}
    for layer, sae in sorted(saes.items()):
        differences = feature_differences(whole, layer)
        chosen = choose_features(differences, settings.score, n)
        if not len(chosen):
            raise UserError(
                "no SAE feature differs between aligned and unaligned contrast texts; check that the texts differ"
            )
        if settings.output_filter > 1:
            directions = unit(_decoder(sae, settings)[chosen])
            effects = output_effects(model, layer, directions.to(model.device), contrast.aligned)
            chosen = chosen[effects.argsort(descending=True, stable=True)[: n // settings.output_filter].sort().values]
        bases, told = bases_of(sae, chosen, differences.mean[chosen], settings)
        state |= {f"layers.{layer}{side}": basis for side, basis in bases.items()}
        chosen_by_half = (
            choose_features(feature_differences(part, layer), settings.score, n).tolist() for part in parts
        )
        report[str(layer)] = {
            "features": chosen.tolist(),
            "difference": [round(value, 6) for value in differences.mean[chosen].tolist()],
            "split_half_jaccard": jaccard(*chosen_by_half) if splits else None,
            **told,
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


def at_rank(settings: SAILS.Settings, of: Material | Flops) -> SAILS.Settings:
    """The settings whose `k` is a number: the adapter's rank, where that is what they say."""
    return settings.model_copy(update={"k": of.rank}) if settings.k == "rank" else settings


def scored(settings: SAILS.Settings) -> int:
    """How many features the score chooses, some of which a filter may leave out. Raises UserError for `k: rank`."""
    if settings.k == "rank":
        raise UserError("setting 'k: rank' needs an adapter's rank; give k as a number")
    return settings.k * settings.output_filter


def choose_features(differences: Differences, score: str, n: int) -> torch.Tensor:
    """The indices of the n features with the highest score, best first.

    Only features that differ at all are chosen, so there may be fewer than n of them.
    """
    import torch

    from sails_eval.methods.subspace.basis import EPSILON, random_columns

    difference = differences.mean
    scores = {
        "abs": difference.abs(),
        "positive": difference,
        "negative": -difference,
        "relative": difference.abs() / (differences.unaligned.abs() + EPSILON),
        "t": difference.abs() / (differences.error.nan_to_num(1.0) + EPSILON),  # of one text alone by |difference|
        "random": random_columns(len(difference), 1, seed="random features")[:, 0].abs() * (difference != 0),
    }[score]
    best = torch.argsort(scores, descending=True, stable=True)[:n]
    return best[scores[best] > 0]


def bases_of(
    sae: Any, chosen: torch.Tensor, difference: torch.Tensor, settings: SAILS.Settings
) -> tuple[dict[str, torch.Tensor], Report]:
    """The basis of chosen features [k], and where readers have one of their own that, too, under `.read`.

    With what is to be said of the first. `difference` [k] is how far each feature's activation × decoder norm differs.
    """
    from sails_eval.methods.subspace.basis import orthonormal_basis, unit

    weights = difference.abs()[:, None] if settings.weights == "delta" else 1.0

    def basis(rows: torch.Tensor) -> Any:
        return orthonormal_basis(unit(rows) * weights, variance=settings.variance, centred=settings.centred)

    written = basis(_decoder(sae, settings)[chosen])
    bases = {"": written.columns}
    if settings.readers == "encoder":
        bases[".read"] = basis(sae.W_enc.detach().float().cpu().T[chosen]).columns
    return bases, written.report()


def _decoder(sae: Any, settings: SAILS.Settings) -> torch.Tensor:
    """The decoder directions [d_sae, d_model], or permuted among the features."""
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
