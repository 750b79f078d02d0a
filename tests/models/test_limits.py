"""Rates are kept in every minute, and failures are retried for as long as was said."""

import asyncio
import time
from email.utils import formatdate
from itertools import pairwise

import pytest

from sails_eval.models import limits
from sails_eval.models.limits import Bucket, Limits, Pace, Patience, retry_after


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def most_in_a_minute(times: list[float]) -> int:
    return max(sum(start <= time < start + 60 for time in times) for start in times)


@pytest.mark.parametrize("per_minute", [7.0, 60.0, 500.0])
def test_no_minute_holds_more_than_the_limit_and_little_less(per_minute: float) -> None:
    clock = Clock()
    bucket = Bucket(per_minute, clock)
    times = []
    while clock.now < 1300:
        clock.now += bucket.take(1)
        times.append(clock.now)
    assert most_in_a_minute(times) <= per_minute
    assert len(times) > 0.95 * 5 * per_minute


def test_what_is_reserved_at_the_same_time_is_spread() -> None:
    bucket = Bucket(61, Clock())
    assert [bucket.take(1) for _ in range(4)] == pytest.approx([0, 1, 2, 3])


def test_a_request_larger_than_the_limit_waits_its_share() -> None:
    bucket = Bucket(61, Clock())
    assert bucket.take(122) == pytest.approx(121)


def test_tokens_are_corrected_afterwards() -> None:
    clock = Clock()
    bucket = Bucket(61, clock)
    bucket.take(31)
    bucket.give_back(20)
    assert bucket.take(1) == pytest.approx(11)
    bucket.give_back(-5)
    assert bucket.take(1) == pytest.approx(17)


def test_requests_and_tokens_both_bind(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    both = Limits(rpm=61, tpm=6100, clock=Clock())

    async def ask() -> None:
        for tokens in (100, 10, 490):
            await both.admit(tokens)
        both.correct(490, 90)
        await both.admit(10)

    asyncio.run(ask())
    assert waits == pytest.approx([1, 5, 3])
    asyncio.run(Limits(None, None).admit(10**9))
    assert len(waits) == 3


def ride(patience: Patience, clock: Clock, *, retry_after: float | None = None) -> list[float]:
    """The times of the attempts of a request that always fails."""
    started, times = patience.start(), [clock.now]
    while (wait := patience.wait(started, len(times), retry_after)) is not None:
        clock.now += wait
        times.append(clock.now)
    return times


def test_a_minute_of_failures_is_retried_with_growing_waits() -> None:
    clock = Clock()
    times = ride(Patience(120, clock), clock)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[-1] == pytest.approx(times[0] + 120)
    assert 0.5 <= gaps[0] < 0.7 and all(gap >= 8 for gap in gaps[5:-1]) and max(gaps) <= 10
    assert any(61 < time - times[0] < 90 for time in times)


@pytest.mark.parametrize(("asked", "least", "most"), [(5.0, 5.0, 12.5), (3600.0, 60.0, 75.0), (0.0, 0.5, 10.0)])
def test_what_the_endpoint_asks_for_is_honoured_up_to_a_bound(asked: float, least: float, most: float) -> None:
    clock = Clock()
    times = ride(Patience(300, clock), clock, retry_after=asked)
    gaps = [later - earlier for earlier, later in pairwise(times)][:-1]  # the last one is cut short by the end
    assert least <= min(gaps) and max(gaps) <= most


def test_an_endpoint_that_is_down_costs_its_time_once() -> None:
    clock = Clock()
    patience = Patience(100, clock)
    assert len(ride(patience, clock)) > 5
    assert len(ride(patience, clock)) == 1
    patience.answered()
    assert len(ride(patience, clock)) > 5


def test_a_request_that_always_fails_is_given_up_while_others_are_answered() -> None:
    clock = Clock()
    patience = Patience(100, clock)
    started, attempts = patience.start(), 1
    while (wait := patience.wait(started, attempts, None)) is not None:
        clock.now += wait
        patience.answered()
        attempts += 1
    assert clock.now == pytest.approx(1100) and attempts > 5


def test_waits_differ_between_requests() -> None:
    clock = Clock()
    waits = {Patience(100, clock).wait(clock.now, 1, None) for _ in range(5)}
    assert len(waits) == 5 and min(w for w in waits if w) >= limits.FIRST_WAIT


def test_an_attempt_may_take_some_times_what_others_took_and_twice_as_long_after_each_that_failed() -> None:
    pace = Pace(timeout=120, patience=120)
    assert [pace.limit(attempt) for attempt in (1, 2, 3, 4)] == [30, 60, 120, 120]
    pace.replied(0.2)
    assert [pace.limit(attempt) for attempt in (1, 2, 3)] == [5, 10, 20]
    pace.replied(7)
    assert pace.limit(1) == 28
    pace.replied(15)
    assert pace.limit(1) == 30
    pace.replied(50)
    assert pace.limit(1) == 75
    for _ in range(100):
        pace.replied(3)
    assert pace.limit(1) == 12 and pace.limit(10**6) == 120


@pytest.mark.parametrize(
    ("timeout", "patience", "first"), [(120, 0, 120), (120, 5, 1.25), (120, 0.1, 1), (2, 600, 2), (600, 600, 150)]
)
def test_a_first_attempt_leaves_patience_for_others(timeout: float, patience: float, first: float) -> None:
    assert Pace(timeout, patience).limit(1) == first


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "Mon, 01 Jan 99999999999 00:00:00 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_retry_after_can_be_a_date() -> None:
    wait = retry_after({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert wait is not None and 20 < wait <= 31
