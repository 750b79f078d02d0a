"""What takes long to work out and says the same as long as nothing that it follows from changes."""

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from sysconfig import get_path
from typing import Any

from sails_eval.core.errors import UserError
from sails_eval.core.files import write_text
from sails_eval.core.fingerprint import digest, of_code
from sails_eval.core.paths import made


def remembered(name: str, key: Any, make: Callable[[], str]) -> str:
    """The text that `make` makes, from the user's cache where it was made before for the same `key`.

    The key holds all that the text follows from besides this package's code and the libraries, which this adds. Where
    the cache cannot be read or written, the text is made.
    """
    libraries = Path(get_path("purelib")).glob("*.dist-info")  # folders that are named after their versions
    whole = digest([key, of_code(), sys.version, sorted(path.name for path in libraries)])
    place = made()  # or the file of verdicts, which the same variable may name
    file = (place.parent if place.suffix else place) / "remembered" / f"{name}-{whole}.txt"
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text(encoding="utf-8")
    text = make()
    with suppress(UserError):
        write_text(file, text)
    return text
