"""Bases of subspaces of the residual stream: made of directions, completed, and placed into LoRA's matrices.

Shared by all initialisations that start LoRA from a basis. A state is `{"layers.{l}": U}` with U of shape [d_model, m],
orthonormal columns, strongest first, of the residual stream after layer l. Where modules that read the stream are to
start from other directions than those that write to it, these are in `layers.{l}.read`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sails_eval.core.errors import UserError
from sails_eval.methods.subspace.recovery import recovery, sin_theta
from sails_eval.methods.subspace.settings import Placement
from sails_eval.models.layers import UNKNOWN, Places, decoder_layers

EPSILON = 1e-6

MOST = 0.8
"""The share of the energy that the paper's number of singular vectors holds."""

LORA_NORM = 3**-0.5
"""About the norm of PEFT's rows of lora_A: kaiming_uniform_(a=√5) draws their n values from ±1/√n: variance 1/(3n)."""


def unit(directions: torch.Tensor) -> torch.Tensor:
    """Directions [n, d] at length 1."""
    return torch.nn.functional.normalize(directions, dim=1)


@dataclass(frozen=True)
class Basis:
    """Orthonormal columns [d, m], strongest first, and the share of the energy that the first 1, 2, … of them hold [m].

    The energy is the squared norm of all directions that the basis is made of.
    """

    columns: torch.Tensor
    energy: torch.Tensor

    def report(self) -> dict[str, Any]:
        """What a report says of it: the energy, and how many columns hold `MOST` of it, the paper's τ (`tau_dim`)."""
        energy = [round(share, 4) for share in self.energy.tolist()]
        return {"tau_dim": int((self.energy < MOST - EPSILON).sum()) + 1, "energy": energy}


def orthonormal_basis(directions: torch.Tensor, *, variance: float, centred: bool = False) -> Basis:
    """The basis that keeps `variance` of the energy of the directions [n, d]; at 1 it spans all of them.

    Uncentred, it spans the directions themselves. `centred` takes the mean direction away first (PCA in the strict
    sense): it spans how the directions differ, and what all have in common is lost unless they differ along it, too.
    """
    if centred:
        directions = directions - directions.mean(0)
    _, values, rows = torch.linalg.svd(directions.double(), full_matrices=False)
    if not values[0] > EPSILON:
        raise UserError(
            "all directions are zero, so there is no basis; check that the contrast texts differ (with 'centred: "
            "true', at least two different directions are needed)"
        )
    energy = torch.cumsum(values**2, 0) / (values**2).sum()
    m = int((values > EPSILON * values[0]).sum())
    if variance < 1:
        m = min(m, int((energy < variance - EPSILON).sum()) + 1)
    return Basis(orthonormal(rows[:m].T).float(), energy[:m].float())


def orthonormal(columns: torch.Tensor) -> torch.Tensor:
    """Orthonormal columns [d, m] of which every first few have the same span as those of `columns`, and their signs."""
    basis, triangle = torch.linalg.qr(columns)
    signed: torch.Tensor = basis * triangle.diagonal().sign()
    return signed


def random_columns(d: int, n: int, *, seed: str) -> torch.Tensor:
    """Normally distributed columns [d, n], the same for the same seed."""
    number = int(hashlib.sha256(seed.encode()).hexdigest()[:15], 16)
    return torch.randn(d, n, generator=torch.Generator().manual_seed(number))


def complete_basis(basis: torch.Tensor, rank: int, *, fill: str, seed: str) -> torch.Tensor:
    """The first `rank` columns of the basis [d, m], filled up to `rank` by a seeded random orthonormal complement."""
    basis = basis[:, :rank]
    missing = rank - basis.shape[1]
    if fill == "none" or missing <= 0:
        return basis
    random = random_columns(basis.shape[0], missing, seed=seed)
    random = random - basis @ (basis.T @ random)
    random = random - basis @ (basis.T @ random)  # twice is enough to be orthogonal to working precision
    return torch.cat([basis, torch.linalg.qr(random).Q], dim=1)


def initialise(
    model: Any, state: Mapping[str, torch.Tensor], *, settings: Placement, seed: int, adapter_name: str = "default"
) -> None:
    """Put the bases of a state into the fresh LoRA adapter of a `PeftModel`, in place, as `settings` say.

    Modules that write to the residual stream (such as o_proj, down_proj of layer l) get lora_B = U and lora_A = 0 from
    layer l's basis; modules that read it (such as q, k, v, gate, up of layer l+1) get lora_A = Uᵀ and lora_B = 0, from
    that for readers where there is one. So ΔW = 0 and no logit changes. A basis wider than the rank is cut. Which
    modules do what is said by `models/architectures.yaml`, or the pair.

    Raises:
        UserError: a target module is on neither side of the residual stream, no module was initialised, or gains are
            to be divided out of norms that are not known.
    """
    initialised, places, layers = 0, Places(model), decoder_layers(model)
    for name, module in model.named_modules():
        if adapter_name not in getattr(module, "lora_A", {}):
            continue
        place = places.of(name)
        layer, writes = place.layer, place.writes
        if settings.side not in ("both", "write" if writes else "read"):
            continue
        down, up = module.lora_A[adapter_name].weight, module.lora_B[adapter_name].weight
        below = settings.uncovered == "nearest_below"
        basis = _basis_at(state, layer if writes else layer - 1, reads=not writes, below=below)
        if basis is None:
            if settings.uncovered == "skip":
                down.requires_grad_(False)
                up.requires_grad_(False)
            continue
        if settings.gains == "divided":
            basis = divided(basis, norm_gain(layers[layer], place.norm))
        complete = complete_basis(basis, down.shape[0], fill=settings.fill, seed=f"{seed}:{name}")
        _place(down, up, complete, writes=writes, settings=settings)
        initialised += 1
    if not initialised:
        raise UserError(
            "no module was initialised: no target module matches 'side' at a layer with a basis; change 'side' or "
            "'uncovered', or give SAEs of other layers"
        )


def _place(down: torch.Tensor, up: torch.Tensor, basis: torch.Tensor, *, writes: bool, settings: Placement) -> None:
    """A basis [d, m] into lora_B [d, r] of a writer or lora_A [r, d] of a reader, beside a zero in the other matrix."""
    basis = basis * (LORA_NORM if settings.scale == "matched" else 1.0)
    width = basis.shape[1]
    frozen = settings.basis == "frozen"
    with torch.no_grad():
        if writes:  # PEFT starts with lora_A at random and lora_B at zero; here it is the other way round
            down[:width] = 0
            up[:, :width] = basis
        else:
            down[:width] = basis.T
            if frozen:
                down[width:] = 0
    if frozen:
        (up if writes else down).requires_grad_(False)


def _basis_at(state: Mapping[str, torch.Tensor], layer: int, *, reads: bool, below: bool) -> torch.Tensor | None:
    """The basis of a layer for either side, or of the nearest one `below` it; None where there is none."""
    layers = range(layer, -1, -1) if below else [layer]
    names = [name for n in layers for name in ([f"layers.{n}.read"] if reads else []) + [f"layers.{n}"]]
    return next((state[name] for name in names if name in state), None)


def norm_gain(layer: Any, name: str | None) -> torch.Tensor | None:
    """The gain [d_model] of the norm of this name in a decoder layer; None where the name is None.

    Raises UserError where the layer has no RMS norm of this name.
    """
    if name is None:
        return None
    norms = {path: module for path, module in layer.named_modules() if "norm" in type(module).__name__.lower()}
    kind = type(norms.get(name)).__name__
    if not kind.endswith("RMSNorm"):
        told = f"has {name}" if name == UNKNOWN else f"has {name} ({kind})" if name in norms else f"lacks {name}"
        raise UserError(
            f"'gains: divided' needs RMS norms on the way of all target modules, and {type(layer).__name__} {told}; "
            "set 'gains: ignored', or tell "
            "the norms in key 'architecture' of the pair's YAML (see: sails-eval docs pairs)"
        )
    norm = norms[name]
    with torch.no_grad():  # ones have a root mean square of 1, so what comes out is w (Llama) or 1 + w (Gemma)
        gain: torch.Tensor = norm(torch.ones_like(norm.weight, dtype=torch.float32))
    return gain.cpu()


def divided(basis: torch.Tensor, gain: torch.Tensor | None) -> torch.Tensor:
    """Orthonormal columns that span {u / g}; u itself where there is no gain g.

    A reader sees g ⊙ x, and A(g ⊙ x) reads u where A's row is u / g. A writer's y is added as g ⊙ y, up to a length,
    and g ⊙ B writes u where B's column is u / g. What a gain of zero lets through is nothing, either way.
    """
    if gain is None:
        return basis
    passes = gain.abs() > EPSILON
    return orthonormal(basis * torch.where(passes, 1 / gain.where(passes, torch.ones_like(gain)), 0.0)[:, None])


def describe(
    state: Mapping[str, torch.Tensor], *, rank: int, fill: str, planted: Mapping[int, torch.Tensor]
) -> dict[str, dict[str, Any]]:
    """By layer, how many vectors of the basis are used (`used_dim`, after the cut at the rank) and `filled` at random.

    At planted layers also the `recovery` of the vectors used, without the fill (None where there are none), and
    `recovery_filled`, which is to be expected of all of the rank where the fill is random, and `sin_theta` then. What
    is said of a basis for readers ends in `_read`.
    """
    said: dict[str, dict[str, Any]] = {}
    for name, basis in state.items():
        _, layer, *side = name.split(".")
        used = basis[:, :rank]
        width = used.shape[1]
        told: dict[str, Any] = {"used_dim": width, "filled": rank - width if fill == "random" else 0}
        if (true := planted.get(int(layer))) is not None:
            told["recovery"] = round(recovery(used, true), 6) if width else None
            told["sin_theta"] = round(sin_theta(used, true, filled_to=rank if fill == "random" else 0), 6)
            if fill == "random":
                told["recovery_filled"] = round(recovery(used, true, filled_to=rank), 6)
        said.setdefault(layer, {}).update({"_".join([key, *side]): value for key, value in told.items()})
    return said


def misfits(report: Mapping[str, Mapping[str, Any]], *, rank: int) -> list[str]:
    """Clauses on bases that do not fit the rank: truncated, so that they keep less than `MOST` of their energy at some
    layer, or narrower than the rank although all directions found are in them."""
    found = {layer: told["energy"] for layer, told in report.items() if "energy" in told}
    left = {layer: energy[rank - 1] for layer, energy in found.items() if len(energy) > rank}
    width = {layer: len(energy) for layer, energy in found.items() if len(energy) < rank and energy[-1] >= 1}
    told = []
    if left and min(left.values()) < MOST:
        least = min(left, key=lambda layer: left[layer])
        told.append(
            f"rank {rank} truncates the subspace: at layer {least} it keeps {left[least]:.2f} of the energy, and "
            f"{MOST:g} would need {report[least]['tau_dim']} columns"
        )
    if width:
        least = min(width, key=lambda layer: width[layer])
        told.append(f"fewer columns found than the rank: {width[least]} of {rank} at layer {least}")
    return told
