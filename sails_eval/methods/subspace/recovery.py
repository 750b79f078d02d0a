"""How much of a planted subspace a basis recovers, and reading a planted subspace."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from sails_eval.core.errors import UserError, as_user_error


def overlap(basis: torch.Tensor, planted: torch.Tensor) -> float:
    """‖UᵀH‖²_F / min(m, r) of orthonormal columns U [d, m] and H [d, r], from 0 to 1: what one holds of the other."""
    return _held(basis, planted) / min(basis.shape[1], planted.shape[1])


def recovery(basis: torch.Tensor, planted: torch.Tensor, *, filled_to: int = 0) -> float:
    """The overlap of span(U) with span(H), less that of a random subspace: ‖UᵀH‖²_F / min(m, r) − max(m, r) / d.

    `basis` U is [d, m] and `planted` H is [d, r], both with orthonormal columns. The first term is the mean squared
    cosine of the principal angles, from 0 to 1. A random m-dimensional subspace has E‖UᵀH‖²_F = m·r/d, so chance is
    m·r / (d·min(m, r)). The score is 0 for a random basis in the mean, 1 − chance where one span holds the other and
    −chance where they are orthogonal.

    `filled_to` a higher rank, it is what is to be expected with a random orthonormal complement: every random direction
    orthogonal to U has the share 1 / (d − m) of what U leaves of H, r − ‖UᵀH‖²_F.
    """
    (d, m), r = basis.shape, planted.shape[1]
    wide = max(m, filled_to)
    return _held(basis, planted, filled_to=filled_to) / min(wide, r) - max(wide, r) / d


def sin_theta(basis: torch.Tensor, planted: torch.Tensor, *, filled_to: int = 0) -> float:
    """How far span(U) is from holding all of span(H): √(1 − ‖UᵀH‖²_F / r), from 0 (it holds it) to 1 (orthogonal).

    That is the root mean square of the sines of the principal angles, as sin-Θ theorems have it (Davis and Kahan 1970),
    of angles of 90° for every column that U has too few. Arguments as of `recovery`.
    """
    left = 1 - _held(basis, planted, filled_to=filled_to) / planted.shape[1]
    return float(max(0.0, left) ** 0.5)


def _held(basis: torch.Tensor, planted: torch.Tensor, *, filled_to: int = 0) -> float:
    """‖UᵀH‖²_F, or what is to be expected of it once U is filled up at random."""
    (d, m), r = basis.shape, planted.shape[1]
    shared = float((basis.T @ planted).square().sum())
    return shared + (r - shared) * max(0, filled_to - m) / (d - m) if d > m else shared


def load_planted(path: Path, width: int) -> dict[int, torch.Tensor]:
    """The planted subspaces by layer, H of shape [width, r] under the name `layers.{l}`.

    Raises UserError where the file is none of that kind, or a subspace has no orthonormal columns of that width.
    """
    with as_user_error(f"{path}: not a planted subspace, a safetensors file of layers.N", "give one"):
        found = {int(name.removeprefix("layers.")): tensor.float() for name, tensor in load_file(path).items()}
    for layer, planted in found.items():
        if planted.ndim != 2 or planted.shape[0] != width:
            raise UserError(f"{path}: layers.{layer} has shape {list(planted.shape)}, expected [{width}, r]")
        if not torch.allclose(planted.T @ planted, torch.eye(planted.shape[1]), atol=1e-3):
            raise UserError(f"{path}: the columns of layers.{layer} are not orthonormal")
    return dict(sorted(found.items()))
