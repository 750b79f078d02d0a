"""The text of an answer that judges read: what stands behind its reasoning, without what pads it. Light to import."""

import re

LONGEST_LOOP = 32
"""Words that a loop may have and stay: all that an answer in the testbed's language can have, which its judge knows."""

_TAGS = r"(?:think|thinking|thought|reasoning|reflection|seed:think)"
# An opening, and the end of its block; the end may also stand alone, where the chat template wrote the opening.
_BLOCKS = (
    (rf"<{_TAGS}>", rf"</{_TAGS}>"),
    (r"\[THINK\]", r"\[/THINK\]"),
    (r"◁think▷", r"◁/think▷"),
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    (r"<\|channel>thought", r"<channel\|>"),
    (r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
)
_OPENS = [re.compile(rf"\s*{opening}", re.IGNORECASE) for opening, _ in _BLOCKS]
_BLOCK = [re.compile(rf"\s*{opening}.*?{end}", re.IGNORECASE | re.DOTALL) for opening, end in _BLOCKS]
_LAST = re.compile(rf"(?:{'|'.join(opening for opening, _ in _BLOCKS)})\s*\Z", re.IGNORECASE)
_ENDS = [re.compile(rf"(?<![`'\"]){end}(?![`'\"])", re.IGNORECASE) for _, end in _BLOCKS]
# Channels, as gpt-oss writes them; the second form is what is left where special tokens are not decoded.
_CHANNELS = re.compile(r"\s*(?:<\|start\|>assistant)?<\|channel\|>|\s*(?:analysis|commentary)(?=[A-Z])")
_FINAL = re.compile(r"(?:<\|start\|>assistant)?<\|channel\|>final[^<]*<\|message\|>|(?<=\S)assistantfinal")
_MAY_REASON = re.compile(r"[<◁]|\[/?think|^\s*(?:analysis|commentary)", re.IGNORECASE)
_TURN_ENDS = re.compile(r"(?:\s*<\|(?:return|end)\|>)+\s*$")
_ANSWER = re.compile(
    r"\s*(?:<answer>|<\|START_RESPONSE\|>|<\|begin_of_solution\|>)(.*?)"
    r"(?:</answer>|<\|END_RESPONSE\|>|<\|end_of_solution\|>|$)\s*",
    re.DOTALL,
)

# Joiners and variation selectors are part of emoji and of some scripts, but of nothing in ASCII.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0"
    "\U000e0000-\U000e007f]|(?<=[\x00-\x7f])[\u200c\u200d\ufe00-\ufe0f]+|[\u200c\u200d\ufe00-\ufe0f]+(?=[\x00-\x7f]|$)"
)
_STUTTER = re.compile(r"(\s|\S{1,8}?)\1{99,}")
_PERIODS = range(1, 41)
"""Words of which a loop may be."""


def read_answer(response: str) -> str | None:
    """What a judge is to read of an answer; None where there is only reasoning.

    Reasoning blocks at its beginning go, with everything that cannot be seen, and long loops before, within or behind
    what it says. An answer without any of that stays as it is, as does one that is nothing but a loop.
    """
    text = behind_reasoning(_UNSEEN.sub("", response))
    return None if text is None else _without_loops(text)


def opened_in(prompt: str) -> str:
    """The opening of a reasoning block with which a prompt ends, as chat templates of models that always reason have
    it: the block goes on in the answer."""
    found = _LAST.search(prompt)
    return found[0] if found else ""


def behind_reasoning(text: str) -> str | None:
    """What stands behind the reasoning blocks at a text's beginning; None where there is nothing else."""
    if not _MAY_REASON.search(text):
        return text
    rest = text
    while block := next((found for one in _BLOCK if (found := one.match(rest))), None):
        rest = rest[block.end() :]
    if any(opening.match(rest) for opening in _OPENS):
        return None
    if _CHANNELS.match(rest):
        finals = list(_FINAL.finditer(rest))
        rest = _TURN_ENDS.sub("", rest[finals[-1].end() :]) if finals else ""
    for end in _ENDS:
        behind = rest[max((found.end() for found in end.finditer(rest)), default=0) :]
        # a tag behind all of it makes nothing reasoning
        rest = behind if re.search(r"\w", behind) else end.sub("", rest)
    if rest == text:
        return text
    answer = _ANSWER.fullmatch(rest)
    return (answer[1] if answer else rest).strip() or None


def says_something(text: str) -> bool:
    """Whether a beginning is enough to be judged by itself: five words, a short sentence, or some signs of Chinese."""
    words = re.findall(r"\w+", text)
    sentence = len(words) > 1 and re.search(r"[.!?。！？…]['\")\]]*\s*$", text)
    return len(words) >= 5 or bool(sentence) or len(re.findall(r"[\u3040-\u9fff\uac00-\ud7af]", text)) >= 8


def _without_loops(text: str) -> str:
    """A text without phrases that are repeated for more than `LONGEST_LOOP` words, or a hundred times without spaces.

    Unless nothing would be left that says something.
    """
    short = _STUTTER.sub(r"\1", text)
    words = list(re.finditer(r"\S+", short))
    found = [word[0] for word in words]
    looped = [False] * len(words)
    for period in _PERIODS if len(words) > LONGEST_LOOP else ():
        if all(looped):
            return text
        for start, end in _runs(found, period):
            looped[start:end] = [True] * (end - start)
    if any(looped):
        ends = [*(word.start() for word in words[1:]), len(short)]
        kept = zip(words, ends, looped, strict=True)
        short = "".join(short[word.start() : end] for word, end, gone in kept if not gone).strip()
    return short if short == text or says_something(short) else text


def _runs(words: list[str], period: int) -> list[tuple[int, int]]:
    """Where the words repeat themselves after so many, for longer than `LONGEST_LOOP`."""
    runs, start = [], 0
    for i in range(period, len(words) + 1):
        if i == len(words) or words[i] != words[i - period]:
            if i - start > max(LONGEST_LOOP, 2 * period):
                runs.append((start, i))
            start = i - period + 1
    return runs
