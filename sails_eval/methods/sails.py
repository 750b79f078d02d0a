"""SAILS: LoRA initialised with the safety subspace that SAE decoder directions span (arXiv 2512.23260).

Contrast pairs → SAE feature statistics → the k features that differ most → their unit decoder directions → the
singular vectors that keep 80 % of the variance → an orthonormal basis per layer, which initialises LoRA on the side
where a module touches the residual stream.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Literal

import torch
from pydantic import Field

from sails_eval.config import Frozen
from sails_eval.errors import UserError
from sails_eval.methods import ContrastPair, Material
from sails_eval.models import decoder_layers
from sails_eval.saes import check_widths

needs_saes = True
needs_contrast = True

WRITERS = frozenset({"o_proj", "down_proj"})
READERS = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
EPSILON = 1e-6


class Settings(Frozen):
    """The choices in SAILS. The paper gives `score: abs` (in digests) and `variance`; the rest it does not specify."""

    score: Literal["abs", "positive", "negative", "relative"] = Field(
        default="abs",
        description="features by |difference|, by how much stronger they are on aligned or on unaligned answers, "
        "or by the difference relative to their mean on unaligned ones",
    )
    k: int = Field(default=32, ge=1, description="features per layer; not specified by the paper")
    variance: float = Field(default=0.8, gt=0, le=1, description="share that the singular vectors keep")
    fill: Literal["random", "none"] = Field(
        default="random", description="rest of the rank: a random orthonormal complement, or PEFT's own start"
    )


def prepare(material: Material, settings: Settings) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Once per run: the bases of all layers that have a SAE, and which features they came from."""
    return get_sails_state_dict(material.model, material.saes, material.contrast, settings=settings)


def initialise(model: Any, state: Mapping[str, torch.Tensor], *, settings: Settings, seed: int) -> None:
    """Once per cell: put the bases into a fresh LoRA adapter."""
    initialize_lora_sails_weights(model, state, fill=settings.fill, seed=seed)


def get_sails_state_dict(
    model: Any, saes: Mapping[int, Any], contrast: Sequence[ContrastPair], *, settings: Settings | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Find the safety subspace of every layer that has a SAE.

    Args:
        model: the bare causal LM, in evaluation mode.
        saes: SAELens SAE of the residual stream after each layer, by the layer's number.
        contrast: tokenised answer pairs; only answer tokens are counted.
        settings: how features are scored and how many are kept.

    Returns:
        `{"layers.{l}": U}` with U of shape [d_model, m], orthonormal columns, strongest first; and a report that has
        for each layer the chosen features, their differences and the number of singular vectors kept (`dim`).

    Raises:
        UserError: a SAE's width is not the model's, or there is nothing to contrast.
    """
    settings = settings or Settings()
    if not contrast:
        raise UserError("SAILS needs contrast data: pairs of an aligned and an unaligned answer to the same request")
    check_widths(model, saes)
    aligned = mean_features(model, saes, [(pair.aligned, pair.start) for pair in contrast])
    unaligned = mean_features(model, saes, [(pair.unaligned, pair.start) for pair in contrast])
    state, report = {}, {}
    for layer, sae in saes.items():
        chosen, difference = choose_features(aligned[layer], unaligned[layer], settings)
        basis = orthonormal_basis(sae.W_dec.detach().float()[chosen], variance=settings.variance)
        state[f"layers.{layer}"] = basis.cpu().contiguous()
        report[str(layer)] = {
            "features": chosen.tolist(),
            "difference": [round(value, 6) for value in difference[chosen].tolist()],
            "dim": basis.shape[1],
        }
    return state, report


def initialize_lora_sails_weights(
    model: Any,
    sails_state_dict: Mapping[str, torch.Tensor],
    *,
    adapter_name: str = "default",
    fill: Literal["random", "none"] = "random",
    seed: int = 0,
) -> None:
    """Initialise the LoRA weights of a `PeftModel` with SAILS, in place (as PEFT's `initialize_lora_eva_weights`).

    Modules that write to the residual stream (o_proj, down_proj of layer l) get lora_B = U and lora_A = 0 from layer
    l's basis; modules that read it (q, k, v, gate, up of layer l+1) get lora_A = Uᵀ and lora_B = 0. So ΔW = 0 and no
    logit changes. A basis wider than the rank is cut; a narrower one is filled with a random orthonormal complement
    (`fill='random'`, which keeps the trainable parameters equal to LoRA's) or leaves the remaining rows as PEFT made
    them (`fill='none'`). Modules without a SAE on their side keep PEFT's initialisation.

    Raises:
        UserError: a target module is on neither side of the residual stream, or no module was initialised.
    """
    initialised = 0
    for name, module in model.named_modules():
        if adapter_name not in getattr(module, "lora_A", {}):
            continue
        layer, writes = residual_side(name)
        basis = sails_state_dict.get(f"layers.{layer if writes else layer - 1}")
        if basis is None:
            continue
        down, up = module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight
        complete = complete_basis(basis, down.shape[0], fill=fill, seed=f"{seed}:{name}")
        width = complete.shape[1]
        with torch.no_grad():
            if writes:  # PEFT starts with lora_A at random and lora_B at zero; here it is the other way round
                down[:width] = 0
                up[:, :width] = complete
            else:
                down[:width] = complete.T
        initialised += 1
    if not initialised:
        raise UserError("SAILS initialised no module: no target module reads or writes at a layer with a SAE")


def residual_side(name: str) -> tuple[int, bool]:
    """The layer of a module and whether it writes to the residual stream (else it reads). Raises UserError."""
    match = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", name)
    leaf = name.rsplit(".", 1)[-1]
    if match is None or leaf not in WRITERS | READERS:
        raise UserError(
            f"SAILS cannot tell whether target module '{name}' reads or writes the residual stream; "
            f"it knows {', '.join(sorted(READERS | WRITERS))}"
        )
    return int(match.group(1)), leaf in WRITERS


def choose_features(
    aligned: torch.Tensor, unaligned: torch.Tensor, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k features with the highest score (indices, best first) and the differences of all of them.

    Both inputs are mean activations of shape [d_sae]. Only features that differ at all are chosen, so there may be
    fewer than k of them.
    """
    difference = aligned - unaligned
    score = {
        "abs": difference.abs(),
        "positive": difference,
        "negative": -difference,
        "relative": difference.abs() / (unaligned.abs() + EPSILON),
    }[settings.score]
    best = torch.argsort(score, descending=True, stable=True)[: settings.k]
    chosen = best[score[best] > 0]
    if not len(chosen):
        raise UserError("no SAE feature tells the aligned from the unaligned contrast texts; are they alike?")
    return chosen, difference


def orthonormal_basis(directions: torch.Tensor, *, variance: float) -> torch.Tensor:
    """Orthonormal columns [d, m] that keep `variance` of the squared norm of the unit directions [n, d].

    The singular value decomposition is uncentred: the subspace is to hold the directions themselves.
    """
    unit = directions / directions.norm(dim=1, keepdim=True).clamp_min(EPSILON)
    _, values, rows = torch.linalg.svd(unit, full_matrices=False)
    share = torch.cumsum(values**2, 0) / (values**2).sum()
    m = int((share < variance - EPSILON).sum()) + 1
    columns, triangle = torch.linalg.qr(rows[:m].T)
    basis: torch.Tensor = columns * triangle.diagonal().sign()  # QR may flip a column; keep the vectors' signs
    return basis


def complete_basis(basis: torch.Tensor, rank: int, *, fill: str, seed: str) -> torch.Tensor:
    """The first `rank` columns of the basis [d, m], filled up to `rank` by a seeded random orthonormal complement."""
    basis = basis[:, :rank]
    missing = rank - basis.shape[1]
    if fill == "none" or missing <= 0:
        return basis
    number = int(hashlib.sha256(seed.encode()).hexdigest()[:15], 16)
    random = torch.randn(basis.shape[0], missing, generator=torch.Generator().manual_seed(number))
    random = random - basis @ (basis.T @ random)
    random = random - basis @ (basis.T @ random)  # twice is enough to be orthogonal to working precision
    return torch.cat([basis, torch.linalg.qr(random).Q], dim=1)


@torch.inference_mode()
def mean_features(
    model: Any, saes: Mapping[int, Any], texts: Sequence[tuple[list[int], int]], *, batch_size: int = 32
) -> dict[int, torch.Tensor]:
    """Mean over texts of each text's mean feature activation × decoder norm, shape [d_sae] for each layer.

    `texts` are (token ids, where the answer starts); only the answer's tokens are counted, padding never.
    """
    sums: dict[int, Any] = dict.fromkeys(saes, 0)
    norms = {layer: sae.W_dec.norm(dim=1) for layer, sae in saes.items()}
    for first in range(0, len(texts), batch_size):
        ids, mask, answer = _pad(texts[first : first + batch_size], model.device)
        for layer, activations in residual_streams(model, sorted(saes), ids, mask):
            features = saes[layer].encode(activations.to(norms[layer].dtype)) * norms[layer]
            weights = (answer / answer.sum(1, keepdim=True)).to(features)
            sums[layer] += torch.einsum("bt,btf->f", weights, features).float()
    return {layer: (total / len(texts)).cpu() for layer, total in sums.items()}


def residual_streams(
    model: Any, layers: Sequence[int], ids: torch.Tensor, mask: torch.Tensor
) -> list[tuple[int, torch.Tensor]]:
    """The residual stream [batch, tokens, d_model] after each of `layers` (ascending); later layers don't run."""
    found: list[tuple[int, torch.Tensor]] = []
    modules = decoder_layers(model)

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            found.append((layer, output[0] if isinstance(output, tuple) else output))
            if layer == layers[-1]:
                raise _EnoughSeenError

        return hook

    handles = [modules[layer].register_forward_hook(keep(layer)) for layer in layers]
    with _hooks(handles), suppress(_EnoughSeenError):
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    return found


class _EnoughSeenError(Exception):
    """Ends a forward pass after the last layer of interest."""


@contextmanager
def _hooks(handles: Sequence[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pad(texts: Sequence[tuple[list[int], int]], device: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Right-padded ids, attention mask, and the mask of answer tokens."""
    width = max(len(ids) for ids, _ in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    mask, answer = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (tokens, start) in enumerate(texts):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
        answer[row, start : len(tokens)] = 1
    return ids.to(device), mask.to(device), answer.to(device)
