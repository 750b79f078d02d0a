"""Where the things live that ship with the package or that a user keeps beside their work."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def bundled(name: str) -> Path:
    """A shipped folder (`tasks`, `adapters`, `leaderboards`): in the installed package, or at the checkout's top."""
    installed = PACKAGE / "bundled" / name
    return installed if installed.is_dir() else PACKAGE.parent / name


def search_path(name: str, extra: tuple[Path, ...] = ()) -> list[Path]:
    """Every folder in which `tasks` or `adapters` are looked for: the bundled one, `./NAME` if it is there, `extra`."""
    folders = [bundled(name), Path(name), *extra]
    return list({folder.resolve(): folder for folder in folders if folder.is_dir()}.values())


def made() -> Path:
    """Where things lie that this machine can make again: $SAILS_EVAL_CACHE, or a folder in the user's cache."""
    if own := os.environ.get("SAILS_EVAL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sails-eval"
