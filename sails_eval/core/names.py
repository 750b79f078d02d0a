"""Lists of names as they are written on the command line and in YAML."""

from typing import Any


def names(text: str) -> tuple[str, ...]:
    """`A,B` as its names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def listed(value: Any) -> Any:
    """`A,B` or `A B` in a YAML file as a list; a number alone as a list of one; anything else as it is."""
    if isinstance(value, str):
        return names(value) if "," in value else tuple(value.split())
    return (value,) if isinstance(value, int) else value
