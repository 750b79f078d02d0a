"""The short campaign of corruptions: each kind of stage file is made again, or refused with its name."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.slow


def test_no_corruption_is_used_and_none_ends_in_a_traceback(benchmark: Callable[[str], Any]) -> None:
    script = benchmark("campaign_corruption")
    with script.here() as command:
        seen = script.campaign(script.SHORT, command)
    assert seen == {"redone": len(script.SHORT) - 1, "refused": 1}  # run.json, which no command makes again
