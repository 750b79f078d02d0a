from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from sails_eval.core.errors import UserError
from sails_eval.core.schema import validate
from sails_eval.data.dialogues import Example, Message
from sails_eval.methods.subspace.contrast import Contrast, Text, encode_contrast, encode_requests
from sails_eval.methods.subspace.settings import ContrastSettings
from sails_eval.models.chat import encode_chat
from sails_eval.testbed.tokenizer import make_tokenizer

ASK, TELL, REFUSE = "how do i boil rice ?", "sure , use the ladle .", "i cannot help with that ."


def example(request: str = ASK, rejected: str = TELL, earlier: tuple[Message, ...] = ()) -> Example:
    return Example((*earlier, Message("user", request)), REFUSE, rejected)


def words(tokenizer: Any, text: Text, places: range) -> str:
    return str(tokenizer.decode([text.ids[i] for i in places]))


@pytest.fixture(params=["words", "bytes"])
def tokenizer(request: pytest.FixtureRequest, tiny_llama_dir: Path) -> Any:
    """A tokenizer of whole words and one of bytes, each with its own template."""
    return make_tokenizer() if request.param == "words" else AutoTokenizer.from_pretrained(tiny_llama_dir)


# --- tokenised texts ---------------------------------------------------------------------------------------------


def test_contrast_pairs_hold_the_contents_of_both_answers(tokenizer: Any) -> None:
    contrast = encode_contrast(tokenizer, [example()], 300)
    (aligned,), (unaligned,) = contrast.aligned, contrast.unaligned
    request = encode_chat(tokenizer, [{"role": "user", "content": ASK}])
    for text, said in ((aligned, REFUSE), (unaligned, TELL)):
        assert text.ids[: len(request)] == request
        assert text.answer == range(len(request), len(text.ids))
        assert words(tokenizer, text, text.answer) == said  # no end of turn: that says nothing on safety
        assert words(tokenizer, text, text.request) == ASK
    assert contrast.paired and contrast.tokens == len(aligned.ids) + len(unaligned.ids)


def test_the_template_is_never_counted_though_it_says_the_same_as_the_request(tokenizer: Any) -> None:
    names = "user model assistant"  # of the speakers in either template
    (text,) = encode_contrast(tokenizer, [example(request=names)], 300).aligned
    counted = [text.ids[i] for i in text.positions("all")]
    assert tokenizer.decode(counted) == tokenizer.decode(
        tokenizer(
            names + REFUSE if "<bos>" not in tokenizer.get_vocab() else f"{names} {REFUSE}", add_special_tokens=False
        ).input_ids
    )


def test_spaces_that_the_template_trims_are_no_content() -> None:
    tokenizer = make_tokenizer()
    (text,) = encode_contrast(tokenizer, [example(request=f"  {ASK} ")], 300).aligned
    assert words(tokenizer, text, text.request) == ASK


def test_earlier_turns_are_not_counted(tokenizer: Any) -> None:
    earlier = (Message("user", ASK), Message("assistant", ASK))
    (text,) = encode_contrast(tokenizer, [example(earlier=earlier)], 300).aligned
    assert words(tokenizer, text, text.request) == ASK
    assert text.request.start > len(text.ids) // 2


def test_contrast_pairs_are_cut_and_those_without_an_answer_left_out() -> None:
    tokenizer = make_tokenizer()
    start = len(encode_chat(tokenizer, [{"role": "user", "content": ASK}]))
    cut = encode_contrast(tokenizer, [example(), example(rejected=" ")], start + 2)
    assert [len(text.ids) for text in (*cut.aligned, *cut.unaligned)] == [start + 2, start + 2]
    assert cut.aligned[0].answer == range(start, start + 2)
    assert encode_contrast(tokenizer, [example()], start) == Contrast([], [])


def test_harmless_requests_are_the_aligned_ones(tokenizer: Any) -> None:
    harmful, harmless = (Example((Message("user", text),), "") for text in (ASK, "tell me"))
    contrast = encode_requests(tokenizer, [harmless, harmless], [harmful], 300)
    assert [words(tokenizer, text, text.request) for text in contrast.aligned] == ["tell me"] * 2
    assert [words(tokenizer, text, text.request) for text in contrast.unaligned] == [ASK]
    assert not contrast.paired and not any(text.answer for text in contrast.aligned)
    length = len(contrast.unaligned[0].ids)
    assert not encode_requests(tokenizer, [harmless], [harmful], length - 1).unaligned


def test_a_template_that_depends_on_the_content_is_an_error() -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | length }} {{ m['content'] }}{% endfor %}"
    with pytest.raises(UserError, match="text around a request depends on the request"):
        encode_contrast(tokenizer, [example()], 300)


# --- positions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("positions", "counted"),
    [
        ("response", [6, 7, 8, 9, 10]),
        ("first4", [6, 7, 8, 9]),
        ("prompt_last", [3]),
        ("prompt_end", [5]),
        ("all", [2, 3, 6, 7, 8, 9, 10]),
    ],
)
def test_positions_of_a_text(positions: Any, counted: list[int]) -> None:
    assert Text([0] * 11, answer=range(6, 11), request=range(2, 4)).positions(positions) == counted


@pytest.mark.parametrize(
    ("contrast", "positions", "takes"),
    [
        ("responses", "prompt_last", "response or first4 or all"),
        ("requests", "response", "prompt_last or prompt_end or all"),
        ("requests", "first4", "prompt_last or prompt_end or all"),
    ],
)
def test_positions_that_tell_nothing_apart_are_an_error(contrast: str, positions: str, takes: str) -> None:
    with pytest.raises(UserError, match=f"here: key 'positions': '{positions}' cannot be used .* use {takes}"):
        validate(ContrastSettings, {"contrast": contrast, "positions": positions}, where="here")


def test_requests_need_positions_of_their_own() -> None:
    with pytest.raises(UserError, match="'response' cannot be used with contrast 'requests'"):
        validate(ContrastSettings, {"contrast": "requests"}, where="here")


# --- halves ------------------------------------------------------------------------------------------------------


def texts(n: int, first: int = 0) -> list[Text]:
    return [Text([first + i], answer=range(1)) for i in range(n)]


def test_halves_share_nothing_and_keep_pairs_together() -> None:
    contrast = Contrast(texts(9), texts(9, first=100))
    one, other = contrast.halves()
    assert (one, other) == contrast.halves()
    assert (len(one.aligned), len(other.aligned)) == (5, 4)
    assert {text.ids[0] for half in (one, other) for text in half.aligned} == set(range(9))
    assert [text.ids for text in one.aligned] != [[i] for i in range(5)]  # not the first ones: files may be sorted
    for half in (one, other):
        assert [text.ids[0] + 100 for text in half.aligned] == [text.ids[0] for text in half.unaligned]


def test_halves_of_classes_are_halves_of_each() -> None:
    one, other = Contrast(texts(3), texts(8), paired=False).halves()
    assert [len(half.aligned) for half in (one, other)] == [2, 1]
    assert [len(half.unaligned) for half in (one, other)] == [4, 4]
    assert not one.paired
