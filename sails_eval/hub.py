"""A model's files on this machine, whether it is named by a folder or by its id on the hub."""

from pathlib import Path

FILES = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors")
"""What is fetched of a model on the hub."""


def fetch(model: str, revision: str | None = None) -> Path:
    """Where a model lies, after fetching it if need be. Raises OSError or ValueError where it can't be had."""
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model, revision=revision, allow_patterns=list(FILES)))
