"""How many labelled examples a cell learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sails_eval.methods.subspace.contrast import Contrast
    from sails_eval.training.batches import TokenRow

LABELS = ("labelled_examples", "further_examples", "rejected_answers", "contrast_examples")
"""Different labelled examples that a cell learns from, its initialisation included; those of them that its training
sample does not hold; rejected answers that it sees; and the examples that its initialisation looks at.

They may differ: SAILS on preference data sees the rejected answers, supervised fine-tuning does not.
"""


def labels_used(rows: Sequence[TokenRow], contrast: Contrast, *, pairs: bool = False) -> dict[str, int]:
    """The values of `LABELS` for a cell that is trained on `rows` and starts from `contrast`.

    `pairs` says whether its training reads the rejected answers, too.
    """
    rejected = {row.example.rejected_label for row in rows if pairs and row.example.rejected is not None}
    trained = {row.example.label for row in rows}
    return {
        "labelled_examples": len(trained | contrast.sources),
        "further_examples": len(contrast.sources - trained),
        "rejected_answers": len(rejected | contrast.rejected),
        "contrast_examples": len(contrast.sources),
    }
