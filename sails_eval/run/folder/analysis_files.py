"""Where an analysis of a run keeps what it finds."""

from dataclasses import dataclass
from pathlib import Path

from sails_eval.core.files import remove
from sails_eval.run.folder.model_folder import ModelFolder
from sails_eval.run.folder.places import inside


@dataclass(frozen=True)
class AnalysisFiles:
    """Where an analysis of a run keeps what it finds: a table, a picture, a page, and a folder for single models."""

    table: Path
    picture: Path
    page: Path
    folder: Path

    def model(self, name: str, key: str) -> ModelFolder:
        """Where a model is asked again; `key` is a hash of all that its answers hang on."""
        return ModelFolder(inside(self.folder, *f"{name}-{key[:8]}".split("/")))

    def measured(self, name: str, key: str) -> Path:
        """As `model`, the file of a record about it."""
        return inside(self.folder, *f"{name}-{key[:8]}.json".split("/"))

    def drop_retuned(self) -> None:
        """Delete the weights that a process left which was killed."""
        for leftover in self.folder.rglob(ModelFolder(self.folder).retuned.name):
            remove(leftover)
