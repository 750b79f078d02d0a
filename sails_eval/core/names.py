"""Lists of names as they are written on the command line and in YAML."""


def names(text: str) -> tuple[str, ...]:
    """`A,B` as its names."""
    return tuple(name.strip() for name in text.split(",") if name.strip())
