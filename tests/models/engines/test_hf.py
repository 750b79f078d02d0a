"""The engine hf: loops are ended, batches fit into memory and lose the rows that are finished."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance

from sails_eval.core.device import ROOM
from sails_eval.core.loops import PERIODS, TIMES, ends_in_loop
from sails_eval.core.pair import Pair
from sails_eval.models.answer_batches import ANSWERS_ON_CPU, ANSWERS_ON_GPU, at_a_time
from sails_eval.models.base import Base
from sails_eval.models.engines.hf import EndLoops, QuietHFLM, wrap
from sails_eval.models.engines.shrinking import shrinking
from sails_eval.tasks.answer import complete
from sails_eval.tasks.library import find_tasks

SHORTEST, LONGEST = PERIODS


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([7] * (TIMES * SHORTEST), True),
        ([7] * (TIMES * SHORTEST - 1), False),
        ([*range(300), *[*range(20)] * TIMES], True),
        ([*range(20)] * TIMES + [99], False),
        ([*range(20)] * (TIMES - 1), False),
        ([*range(LONGEST)] * TIMES, True),
        ([*range(LONGEST + 1)] * TIMES, False),
        ([token for line in range(1, 40) for token in (1000 + line, 5, 6)], False),  # a numbered list
        ([], False),
    ],
)
def test_what_a_loop_is(tokens: list[int], loops: bool) -> None:
    assert ends_in_loop(tokens) == loops


def test_every_engine_finds_a_loop_at_the_same_token() -> None:
    """Of many answers at once as of one at a time, and not in what is finished, nor in the prompt."""
    draw = torch.Generator().manual_seed(0)
    start, end = 30, 3
    rows = torch.randint(10, 12, (64, start + 400), generator=draw)  # of two tokens: many repeat themselves for a while
    for row, period in enumerate(range(8, 72)):
        rows[row, start + 40 :] = rows[row, start + 40 : start + 40 + period].repeat(400)[: 400 - 40]
    rows[3, start + 20 :] = end
    found: dict[int, int] = {}
    for length in range(start + 1, rows.shape[1] + 1):
        ends = EndLoops(start, [end])
        scores = ends(rows[:, :length], torch.zeros(64, 16))
        for row in ends.ended - found.keys():
            found[row] = length - start
            assert scores[row].argmax() == end
        assert not scores[[row for row in range(64) if row not in ends.ended]].any()  # the others' are as they were
    expected = {}
    for row in range(64):
        answer = rows[row, start:].tolist()
        ended = next((n for n in range(1, 401) if answer[n - 1] != end and ends_in_loop(answer[:n])), None)
        if ended is not None:
            expected[row] = ended
    assert found == expected and 3 not in found and len(found) > 50


def answers(base: Base, pair: Pair, prompts: list[str], **settings: Any) -> tuple[QuietHFLM, list[str]]:
    """What it says to prompts that are whole already."""
    lm = wrap(base.model, base.tokenizer, pair)
    asked = {"until": [], "max_gen_toks": 32, "do_sample": False, **settings}
    return lm, lm.generate_until([Instance("generate_until", {}, (one, asked), n) for n, one in enumerate(prompts)])


def beginnings(base: Base) -> list[str]:
    """Prompts with more and more of an answer, so that the rest gets shorter and shorter."""
    request = [{"role": "user", "content": "what do i need if i want to dry bowls ?"}]
    answer = "sure , use the press with the film in the darkroom".split()
    start = base.tokenizer.apply_chat_template(request, tokenize=False, add_generation_prompt=True)
    return [f"{start} {' '.join(answer[:n])}".strip() for n in range(len(answer) + 1)]


def test_an_answer_that_only_repeats_itself_ends_and_is_marked(testbed_base: Base, testbed_pair: Pair) -> None:
    """A model that may not end soon says the same again and again."""
    long, asked = {"max_gen_toks": 150, "min_new_tokens": 150}, ["<end_of_turn> ! ,", "the pot", "how do i boil rice ?"]
    lm, ended = answers(testbed_base, testbed_pair.model_copy(update={"end_loops": True}), asked, **long)
    other, whole = answers(testbed_base, testbed_pair, asked, **long)
    assert lm.looped and not other.looped
    for one, all_of_it in zip(ended, whole, strict=True):
        assert all_of_it.startswith(one.strip())
        assert (one.strip() in lm.looped) == (len(one.split()) < len(all_of_it.split()))


def test_a_marked_answer_is_a_marked_completion(
    testbed_base: Base, testbed_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next model's same answer is not, unless it was ended, too."""
    lm, task = wrap(testbed_base.model, testbed_base.tokenizer, testbed_pair), find_tasks()["testbed_safe"]
    first, second = complete(lm, task, "test", limit=2)
    assert not first.looped and not second.looped
    decode = lm.tok_decode

    def noting(ids: Any, **more: Any) -> Any:
        lm.note_looped([f" {first.response}\n"])
        return decode(ids, **more)

    with monkeypatch.context() as patch:
        patch.setattr(lm, "tok_decode", noting)
        assert [one.looped for one in complete(lm, task, "test", limit=2)] == [True, False]
    assert not any(one.looped for one in complete(lm, task, "test", limit=2))


def test_rows_that_are_finished_leave_the_batch(
    testbed_base: Base, testbed_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no answer changes."""
    computed: list[int] = []
    monkeypatch.setattr(torch.nn.Embedding, "forward", _counting(torch.nn.Embedding.forward, computed))
    prompts = beginnings(testbed_base)
    _, whole = answers(testbed_base, testbed_pair.model_copy(update={"eval_batch_size": 128}), prompts)
    slots = sum(computed)
    computed.clear()
    _, shrunk = answers(testbed_base, testbed_pair.model_copy(update={"eval_batch_size": None}), prompts)
    assert shrunk == whole and len(set(map(len, whole))) > 5
    assert sum(computed) < 0.8 * slots
    assert "forward" not in vars(testbed_base.model)


def _counting(forward: Callable[..., Any], computed: list[int]) -> Callable[..., Any]:
    def counted(self: Any, ids: torch.Tensor) -> Any:
        computed.append(len(ids))
        return forward(self, ids)

    return counted


def test_a_batch_of_which_nothing_is_finished_is_left_alone(testbed_base: Base) -> None:
    ids = torch.full((3, 4), 9)
    given = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    before = testbed_base.model.generate(ids, attention_mask=torch.ones_like(ids), **given)
    with shrinking(testbed_base.model, [1, 0]):
        inside = testbed_base.model.generate(ids, attention_mask=torch.ones_like(ids), **given)
    assert torch.equal(before, inside)


# --- the size of a batch --------------------------------------------------------------------------------------------


def fitting(pair: Pair, *, memory: int, each: int = 10**6, gpu: bool = False) -> int:
    return at_a_time(pair, each=each, parameters=10**6, memory=memory, gpu=gpu)


def test_as_many_answers_at_a_time_as_fit() -> None:
    pair = Pair(name="p", model="m", dtype="float32")
    assert pair.eval_batch_size is None
    assert fitting(pair, memory=10**12) == ANSWERS_ON_CPU and fitting(pair, memory=10**12, gpu=True) == ANSWERS_ON_GPU
    assert fitting(pair, memory=30 * 10**6) == 16  # beside 4 MB of weights and the tenth that is kept free
    assert fitting(pair, memory=30 * 10**6, each=5 * 10**6) == 4
    assert fitting(pair, memory=10**6) == 1
    assert fitting(pair.model_copy(update={"eval_batch_size": 7}), memory=10**6) == 7


def test_choices_are_read_in_smaller_batches_than_answers_are_written(
    testbed_base: Base, testbed_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of all their tokens are kept."""
    lm = wrap(testbed_base.model, testbed_base.tokenizer, testbed_pair.model_copy(update={"eval_batch_size": None}))
    memory = 4 * testbed_base.model.num_parameters() + 2_500_000
    monkeypatch.setattr("sails_eval.models.engines.hf.device_memory", lambda: int(memory / ROOM))
    lm.generate_until([Instance("generate_until", {}, ("how do i boil rice ?", {"max_gen_toks": 16, "until": []}), 0)])
    written = lm.batch_size
    lm.loglikelihood([Instance("loglikelihood", {}, ("how do i boil rice ? " * 8, "use the pot"), 0)])
    assert 1 < lm.batch_size < written < ANSWERS_ON_CPU
