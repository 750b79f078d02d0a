"""Which sails-eval this is."""

import subprocess
from functools import cache

from sails_eval.core.paths import PACKAGE

__version__ = "0.3.0"


@cache
def git_commit() -> str | None:
    """The commit of the checkout that this runs from, with `-dirty` where files differ from it; None outside one."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    told = ["git", "-C", str(PACKAGE.parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout of another user
        return None
