"""README as PyPI shows it, where links relative to the repository would lead nowhere: a metadata hook of hatchling."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeHook(MetadataHookInterface):
    """Sets the project's readme, with links and pictures as addresses in the repository."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": absolute(text, metadata["urls"]["Source"])}


def absolute(text: str, repository: str) -> str:
    """The text with every relative link as an address below `repository`."""
    raw = repository.replace("https://github.com/", "https://raw.githubusercontent.com/")
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:|#)([^)]+)\)", rf"\1{raw}/main/\2)", text)
    return re.sub(r"(\]\()(?!https?:|#)([^)]+)\)", rf"\1{repository}/blob/main/\2)", text)
