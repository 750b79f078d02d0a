"""Text that is not ours (names, prompts, answers, errors of libraries) where it is shown or written: it stays text.

A terminal is not steered by it (`visible`, `one_line`), Markdown and HTML not marked up (`escape`), and a spreadsheet
runs no formula (`neutralise`). What commands print goes through `Visible`, what is logged through `PlainFormatter`.
"""

import io
import logging
import re
from typing import TextIO

# Control characters, line separators, what changes the direction of text, tags, half characters.
_STEERS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_STEERING = re.compile(f"[{_STEERS}]")
_BREAKING = re.compile(f"[{_STEERS}\t\n]")


def visible(text: str) -> str:
    """Text of any number of lines with what could steer a terminal as JSON writes it: `\\u001b`."""
    return _STEERING.sub(lambda found: json_escape(found[0]), text)


def json_escape(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def one_line(text: str) -> str:
    """Text without the characters that could steer a terminal, end a line, or a row of a table: spaces instead."""
    return _BREAKING.sub(" ", text)


def escape(text: str) -> str:
    """Text that stays text in Markdown: no markup, no HTML, one line."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", one_line(text))


def neutralise(text: str) -> str:
    """Put an apostrophe before text that a spreadsheet would run as a formula; `restore` takes it off."""
    return "'" + text if _is_formula(text.lstrip("'")) else text


def restore(cell: str) -> str:
    """The text that `neutralise` was given."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell.lstrip("'")) else cell


def _is_formula(text: str) -> bool:
    return text.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))


class Visible(io.TextIOBase):
    """A stream that gets `visible` text only."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


class PlainFormatter(logging.Formatter):
    """Log messages as `visible` text."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))
