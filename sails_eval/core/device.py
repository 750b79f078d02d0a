"""The device that models are on, and the dtype that suits it. Torch is imported only where a GPU may be there."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, Literal, ParamSpec, Protocol, TypeVar

import psutil

from sails_eval.core.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""The environment variable by which CUDA, and so every library here and every process that is started, sees GPUs."""

DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Where Linux has a driver of NVIDIA, of Windows's subsystem, and of AMD."""


def check_device(name: str) -> str:
    """The name as it is. Raises ValueError for what no device is called."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"{name!r} is not a device; use auto, cpu, cuda or cuda:N (N: the GPU's number, from 0)")
    return name


def has_gpu() -> bool:
    """Whether torch sees a GPU. Torch counts them once in a process, so where none is to be seen it is not asked."""
    if os.environ.get(VISIBLE) == "":
        return False
    if sys.platform == "linux" and not any(Path(driver).exists() for driver in DRIVERS):
        return False
    import torch

    return bool(torch.cuda.is_available())


def main_memory() -> int:
    """Bytes of main memory."""
    return int(psutil.virtual_memory().total)


ROOM = 0.9
"""The share of memory that is planned with; the rest is for CUDA itself, fragments, and what estimates miss."""


def device_memory() -> int:
    """Bytes that models can take: of the GPU, or of main memory without one."""
    if not has_gpu():
        return main_memory()
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def best_dtype() -> Literal["float32", "bfloat16"]:
    """bfloat16 on a GPU that computes in it, float32 elsewhere."""
    if not has_gpu():
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"


@contextmanager
def used(device: str | None) -> Iterator[None]:
    """Have models on `device` inside the block, here and in processes that start there: auto (or None), cpu, cuda or
    cuda:N.

    Raises UserError where there is no such GPU.
    """
    before, device = os.environ.get(VISIBLE), device or "auto"
    if device == "cpu":
        os.environ[VISIBLE] = ""
    elif number := re.fullmatch(r"cuda:(\d+)", device):
        visible = before.split(",") if before else []
        n = int(number.group(1))
        os.environ[VISIBLE] = visible[n] if n < len(visible) else number.group(1)
    try:
        if device.startswith("cuda") and not has_gpu():
            raise UserError(f"--device {device}: torch finds no such GPU; give --device cpu, or leave the flag out")
        yield
    finally:
        os.environ.pop(VISIBLE, None)
        if before is not None:
            os.environ[VISIBLE] = before


class _Asked(Protocol):
    @property
    def device(self) -> str | None: ...


Config = TypeVar("Config", bound=_Asked)
Given = ParamSpec("Given")
Made = TypeVar("Made")


def on_device(function: Callable[Concatenate[Config, Given], Made]) -> Callable[Concatenate[Config, Given], Made]:
    """The function, whose first argument is a configuration, with models on that configuration's device."""

    @wraps(function)
    def there(config: Config, /, *given: Given.args, **named: Given.kwargs) -> Made:
        with used(config.device):
            return function(config, *given, **named)

    return there
