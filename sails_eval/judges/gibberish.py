"""Whether a text is no words of any language: random tokens, letters, fragments or words. Light to import.

Nothing here knows a language. What counts are letters that hardly ever follow each other, signs that no text has, words
of two scripts, the lack of short words. A text is gibberish only if it is so throughout; nonsense that is grammatical,
and random letters of other scripts than Latin, are not found.
"""

import re
import unicodedata
from itertools import pairwise

ODD = 0.25
"""The share of odd words from which a text is gibberish; in real texts hardly a word is odd."""

COHERENT, OPENING = 9, 5
"""So many words in a row without an odd one, anywhere or at the beginning, are an answer, whatever else is there."""

WINDOW = 20
"""Words that are looked at together: for short ones, of which running text has some, and for different ones."""

# Pairs of letters of which each makes up less than 0.08 % in every one of 69 languages in Latin letters, without
# diacritics: a first letter and all that hardly follow it. Counted in the translated messages of a Linux system.
_NEVER = (
    "bfcgkpqvx cdfgpqvwx dbcqx fcdgkmpqvwxz gx hhqxz jbcfgpqrvwxz kfpvx lqx mcx nqx pbfqvx qbcfgjkmnpqsvwxyz sx tfq "
    "vbcdfqwx wbfjklpqvwxz xbcfgjklmnqrsvxyz yqx zcfjqx"
)
_RARE = re.compile("|".join(f"{group[0]}[{group[1:]}]" for group in _NEVER.split()))
_NO_VOWEL = re.compile(r"[bcdfghjkmnpqstvxz]{4,}|.*[bcdfghjklmnpqrstvxz]{6}")
_SIGNS_INSIDE = re.compile(r"[^\W\d_][^\w\s]*[\"\\{}|;:#~^\[\]()$%?!*`][^\w\s]*[^\W\d_]")
_NO_PROSE = re.compile(r"```.*?(?:```|$)|https?://\S+|\$[^$\n]+\$", re.DOTALL)
_PAUSE = re.compile(r"[\w)\]'\"][.,;:!?]['\")]*\s|[\n|\d]|\s[-–*•]\s")
_WITHOUT_SPACES = {
    "CJK",
    "HIRAGANA",
    "KATAKANA",
    "HANGUL",
    "THAI",
    "LAO",
    "KHMER",
    "MYANMAR",
    "TIBETAN",
    "GREEK",
    "MODIFIER",
}
"""Scripts whose signs may stand beside those of others: Greek letters do so in formulas, modifiers everywhere."""


def is_gibberish(text: str) -> bool:
    """Whether nothing in a text of a few words makes sense."""
    text = _NO_PROSE.sub(" ", text.rstrip("\ufffd \n"))
    words, code = text.split(), _like_code(text)
    odd = [_is_odd(word, code=code) for word in words]
    if len(words) < 3:
        return sum(map(_is_no_text, text)) > 1
    if sum(odd) >= max(3, ODD * len(words)):
        return any(odd[:OPENING]) and not _has_run(words, odd)
    return _is_salad(text, words) or _is_stammer(words)


def _is_no_text(sign: str) -> bool:
    """A sign that no text has: unreadable, a control character, or of private use."""
    return sign == "\ufffd" or (sign not in "\t\n\r" and unicodedata.category(sign) in ("Cc", "Co", "Cn"))


def _is_odd(word: str, *, code: bool) -> bool:
    """Whether a word is none, or has a sign inside that a word has not."""
    if any(map(_is_no_text, word)) or (not code and _SIGNS_INSIDE.search(word)):
        return True
    scripts = [unicodedata.name(sign, "?").split()[0] if sign.isalpha() else "" for sign in word]
    if any(a and b and a != b and not {a, b} & _WITHOUT_SPACES for a, b in pairwise(scripts)):
        return True
    plain = "".join(sign for sign in unicodedata.normalize("NFKD", word) if not unicodedata.combining(sign))
    parts = [part.lower() for part in re.findall(r"[^\W\d_]{3,}", plain) if part.isascii() and not part.isupper()]
    return any(_RARE.search(part) or _NO_VOWEL.fullmatch(part) for part in parts)


def _like_code(text: str) -> bool:
    """Whether signs may belong there: several lines, or brackets and quotes that close."""
    pairs = (("(", ")"), ("[", "]"), ("{", "}"))
    closed = all(text.count(one) == text.count(other) for one, other in pairs) and text.count('"') % 2 == 0
    return text.count("\n") >= 3 or (closed and any(one in text for one in '([{"'))


def _has_run(words: list[str], odd: list[bool]) -> bool:
    """Whether `COHERENT` words follow each other of which none is odd, and most are different."""
    starts = range(len(words) - COHERENT + 1)
    return any(not any(odd[i : i + COHERENT]) and len({*words[i : i + COHERENT]}) > COHERENT / 2 for i in starts)


def _windows(words: list[str]) -> list[list[str]]:
    return [words[i : i + WINDOW] for i in range(0, max(1, len(words) - WINDOW // 2), WINDOW)]


def _is_salad(text: str, words: list[str]) -> bool:
    """Whether words in plain letters stand there without a pause, with hardly a short one and none that comes again.

    Fewer words than a window may be a sentence: of Malay, say, which has few short ones.
    """
    if len(words) < WINDOW or not text.isascii() or _PAUSE.search(text):
        return False
    return sum(len(word) <= 3 for word in words) <= len(words) / 6 and all(
        len({*part}) == len(part) and sum(len(word) <= 3 for word in part) <= WINDOW / 4 for part in _windows(words)
    )


def _is_stammer(words: list[str]) -> bool:
    """Whether a few words come again and again, in whatever order."""
    said = [word.strip(".,;:!?\"'").lower() for word in words]
    if len(said) < WINDOW or sum(any(map(str.isalpha, word)) for word in said) < len(said) * 0.8:
        return False
    return len({*said}) <= max(5, len(said) / 10) and all(len({*part}) <= WINDOW / 3 for part in _windows(said))
