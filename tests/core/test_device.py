import os

import pytest

from sails_eval.core import device
from sails_eval.core.comparison import CompareConfig
from sails_eval.core.device import VISIBLE, on_device, used
from sails_eval.core.errors import UserError
from sails_eval.core.pair import Pair, load_pair


def test_the_cpu_hides_gpus_inside_the_block_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "2,3")
    with used("cpu"):
        assert os.environ[VISIBLE] == ""
    assert os.environ[VISIBLE] == "2,3"
    with used(None):
        assert os.environ[VISIBLE] == "2,3"


def test_a_numbered_gpu_is_one_of_those_that_are_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setenv(VISIBLE, "2,3")
    with used("cuda:1"):
        assert os.environ[VISIBLE] == "3"
    monkeypatch.delenv(VISIBLE)
    with used("cuda:1"):
        assert os.environ[VISIBLE] == "1"
    assert VISIBLE not in os.environ


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_gpu", lambda: False)
    with pytest.raises(UserError, match="--device cuda: torch finds no such GPU"), used("cuda"):
        pass


def test_a_function_runs_on_the_device_of_its_configuration() -> None:
    @on_device
    def seen(config: CompareConfig, *, more: str) -> str:
        return os.environ.get(VISIBLE, "all") + more

    assert seen(CompareConfig(device="cpu"), more="!") == "!"


@pytest.mark.parametrize(("found", "dtype"), [("bfloat16", "bfloat16"), ("float32", "float32")])
def test_the_dtype_suits_the_device_unless_it_is_said(found: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sails_eval.core.pair.best_dtype", lambda: found)
    assert Pair(name="p", model="m", dtype="auto").dtype == dtype  # type: ignore[arg-type]
    assert Pair(name="p", model="m", dtype="float16").dtype == "float16"
    assert load_pair("testbed").dtype == load_pair("testbed-b").dtype == "float32"
