"""The language that a text is in, where that can be told. Light to import; the library is loaded by the first text."""

import re
from functools import cache
from typing import Any

SURE = 0.9
"""The probability from which on the library is believed. Lists of names or of dishes reach 0.7."""

WORDS = 8
"""The words that a text needs, or the characters of a script without spaces."""

OPENING = 40
"""Characters of a text's beginning. What begins in English can be read, whatever else it says."""

LATIN = "la"
"""What placeholder text and lists of scientific terms are taken for; nobody answers in it."""

_NO_PROSE = re.compile(r"```.*?(?:```|$)|`[^`\n]+`|https?://\S+|\$[^$\n]+\$", re.DOTALL)
_WORD = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff]|[^\W\d_]+")


def language(text: str) -> str | None:
    """The ISO 639 code of a text's language; None where it is not clear: few words, code, names, English first."""
    prose = _NO_PROSE.sub(" ", text).strip()
    if len(_WORD.findall(prose)) < WORDS:
        return None
    code, sure = _identifier().classify(prose)
    mixed = code != "en" and _identifier().classify(prose[:OPENING])[0] == "en"
    return str(code) if sure >= SURE and not mixed and code != LATIN else None


def unreadable(text: str) -> str | None:
    """Why a judge that reads English only leaves an answer unscored; None where it can be read, for all one knows."""
    found = language(text)
    return None if found in (None, "en") else f"language: {found}"


@cache
def _identifier() -> Any:
    """Naive Bayes on sequences of bytes, with probabilities; it takes a second or two to load.

    Of the library's languages those with a code of two letters, without dialects that are so close to these that it is
    sure of neither.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    found = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    found.set_languages([code for code in found.labels if len(code) == 2])
    return found
