"""How good a SAE is on a model's activations, without the few of another size that no SAE reconstructs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from sails_eval.core.errors import UserError
from sails_eval.methods.subspace.activations import is_usual

GOOD, USABLE = 0.7, 0.3
"""The share of the variance that a good SAE explains at least, and the least with which its features mean anything."""

AT_ONCE = 4096
"""Tokens that are encoded at once."""


@dataclass(frozen=True)
class Quality:
    """The share of the variance explained, the mean number of active features (L0), and the share of features that are
    active at least once, over so many tokens."""

    explained: float
    l0: float
    active: float
    tokens: int


@torch.no_grad()
def quality(sae: Any, vectors: torch.Tensor) -> Quality:
    """The quality of a SAE on activations [n, d_model], outliers left out.

    Explained is 1 − Σ‖x − x̂‖² / Σ‖x − mean‖². Raises UserError where that is no number.
    """
    vectors = vectors[is_usual(vectors)].to(sae.W_dec.dtype)
    unexplained, active = 0.0, 0
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=vectors.device)
    for some in torch.split(vectors, AT_ONCE):
        features = sae.encode(some)
        unexplained += float((some - sae.decode(features)).square().sum())
        active += int((features > 0).sum())
        fired |= (features > 0).any(0)
    total = float((vectors - vectors.mean(0)).square().sum())
    explained = 1 - unexplained / total if total else math.nan
    if not math.isfinite(explained):
        raise UserError(
            f"a SAE cannot be measured on {len(vectors)} tokens at which the model's activations are all the same, or "
            "these or what it makes of them are not finite; give other texts, or another SAE"
        )
    return Quality(explained, active / len(vectors), float(fired.float().mean()), len(vectors))
