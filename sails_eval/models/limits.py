"""How fast an endpoint may be asked, and how long failing requests are retried."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime

Clock = Callable[[], float]
"""Seconds since some fixed time."""

FIRST_WAIT = 0.5
LONGEST_WAIT = 8.0
"""Seconds before the second attempt, and at most before any later one, unless the endpoint asks for more."""

LONGEST_RETRY_AFTER = 60.0
"""Seconds for which an endpoint can make a request wait before it is tried again."""

SHORTEST_ATTEMPT = 5.0
"""Seconds that every attempt may take, however fast replies were until then."""

BUSY = (408, 409, 429, 503)
"""Statuses of an endpoint that works, if not for everybody at once."""


def may_pass(status: int) -> bool:
    """Whether a request that got this status may get a reply later."""
    return status in BUSY or status >= 500


class Bucket:
    """A rate limit: no minute holds more than `per_minute`, and what is asked for is spread over it.

    Endpoints count over less than a minute, too, so no more than a second's worth may come at once.
    """

    def __init__(self, per_minute: float, clock: Clock = time.monotonic) -> None:
        self._rate = per_minute / 61  # a minute's worth and the burst of one second together make `per_minute`
        self._burst = max(self._rate, 1.0)
        self._level = self._burst
        self._clock = clock
        self._filled = clock()

    def take(self, amount: float) -> float:
        """Reserve an amount, however large; seconds until it may be used."""
        now = self._clock()
        self._level = min(self._burst, self._level + (now - self._filled) * self._rate) - amount
        self._filled = now
        return max(0.0, -self._level / self._rate)

    def give_back(self, amount: float) -> None:
        """Correct what was taken: too much, or (less than 0) too little."""
        self._level += amount


class Limits:
    """Requests and tokens per minute; None: no limit. For one event loop at a time."""

    def __init__(self, rpm: float | None, tpm: float | None, clock: Clock = time.monotonic) -> None:
        self._requests = None if rpm is None else Bucket(rpm, clock)
        self._tokens = None if tpm is None else Bucket(tpm, clock)

    async def admit(self, tokens: int) -> float:
        """Wait until a request of about so many tokens may be sent; the seconds that this took."""
        waits = [self._requests.take(1)] if self._requests else []
        waits += [self._tokens.take(tokens)] if self._tokens else []
        if wait := max(waits, default=0.0):
            await asyncio.sleep(wait)
        return wait

    def correct(self, estimated: int, used: int) -> None:
        """What a request turned out to use."""
        if self._tokens:
            self._tokens.give_back(estimated - used)


class Patience:
    """For how many seconds a request is tried again, and all requests together if none gets an answer.

    So a request that fails for ever is given up by itself, and an endpoint that is down doesn't cost its time once
    for every answer: after `seconds` without any reply, each further request is tried once.
    """

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._failing_since: float | None = None

    def start(self) -> float:
        """The time at which a request is first tried."""
        return self._clock()

    def answered(self) -> None:
        """The endpoint works."""
        self._failing_since = None

    def wait(self, started: float, attempt: int, retry_after: float | None) -> float | None:
        """Seconds until a request that failed is to be tried again; None: not at all.

        `attempt` counts its failures, from 1; `retry_after` is what the endpoint asked for, in seconds.
        """
        now = self._clock()
        self._failing_since = now if self._failing_since is None else self._failing_since
        left = min(started, self._failing_since) + self._seconds - now
        if left <= 0:
            return None
        backoff = min(FIRST_WAIT * 2.0 ** min(attempt - 1, 10), LONGEST_WAIT)
        asked = min(retry_after or 0.0, LONGEST_RETRY_AFTER)
        return min(max(backoff, asked) * random.uniform(1, 1.25), left)  # else all would come back at the same time


class Pace:
    """How long an attempt may take: four times as long as the slowest of the last replies did, and twice as long with
    every attempt that failed, up to `timeout`.

    So a request that hangs is sent again while there is patience for it. A first attempt may take no more than a
    quarter of that patience, so that two can hang, unless replies are slower: then half as long again as the slowest.
    """

    def __init__(self, timeout: float, patience: float) -> None:
        self._timeout = timeout
        self._least = min(max(patience / 4, 1.0), SHORTEST_ATTEMPT) if patience else timeout
        self._first = min(timeout, patience) / 4
        self._took: deque[float] = deque(maxlen=100)

    def replied(self, seconds: float) -> None:
        """A reply took so long."""
        self._took.append(seconds)

    def limit(self, attempt: int) -> float:
        """Seconds for an attempt, counted from 1. Without patience there is only one, and it may take all the time."""
        usual = self._first
        if self._took:
            slowest = max(self._took)
            usual = min(4 * slowest, max(1.5 * slowest, self._first))
        return float(min(self._timeout, max(usual, self._least) * 2 ** min(attempt - 1, 10)))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds after which an endpoint wants to be asked again, if it says so."""
    milliseconds, text = headers.get("retry-after-ms"), headers.get("retry-after", "")
    try:
        seconds = float(text) if milliseconds is None else float(milliseconds) / 1000
    except ValueError:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return seconds if seconds >= 0 else None
