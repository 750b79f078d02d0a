"""What determines the answers of a model: its bytes, its template, the versions of the libraries."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sails_eval.core.errors import UserError
from sails_eval.core.fingerprint import of_path
from sails_eval.core.pair import Pair
from sails_eval.models.hub import check_hub, gated, not_given, template_of, template_text
from sails_eval.models.templates import CLOCK, reads_clock

LIBRARIES = ("torch", "transformers", "peft", "trl", "lm_eval", "sae-lens", "tokenizers", "datasets")


def commit_of(model: str, revision: str | None) -> str | None:
    """The commit that a hub id stands for now, so that a run loads one and the same; None for a local folder.

    Raises UserError where it is neither a folder nor to be had from the hub.
    """
    if Path(model).is_dir():
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError

    check_hub()
    try:
        return Path(hf_hub_download(model, "config.json", revision=revision)).parent.name
    except GatedRepoError as error:
        raise gated(model) from error
    except (OSError, ValueError) as error:
        raise not_given(model, error) from error


def of_model(name: str, revision: str | None) -> str:
    """A folder's bytes, or a hub id with its commit."""
    return of_path(Path(name)) if Path(name).is_dir() else f"{name}@{commit_of(name, revision)}"


def model_identity(pair: Pair) -> dict[str, Any]:
    """What a model's answers depend on: its bytes, its chat template, and how it is run."""
    if pair.chat_template is not None and not pair.chat_template.is_file():
        raise UserError(f"{pair.chat_template}: no such chat template file")
    weights, template = of_model(pair.model, pair.revision), template_of(pair)
    return {
        "weights": weights,
        "chat_template": of_path(template) if template else None,
        **({"clock": CLOCK.isoformat()} if reads_clock(template_text(pair)) else {}),
        **pair.model_dump(mode="json", include={"dtype", "attn_implementation", "eval_batch_size"}),
    }


def environment() -> dict[str, str]:
    """The versions that results depend on; every row of a board comes from one such environment."""
    found = {name: version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), "machine": platform.machine(), **found}
