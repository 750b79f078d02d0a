"""What this machine has for models: memory, and room on the disk."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from sails_eval.core.device import device_memory, has_gpu


@dataclass(frozen=True)
class Machine:
    """Bytes that models can take (of the GPU, or of main memory without one), and free on the disk."""

    device: str
    gpu: bool
    memory: int
    disk: int

    @classmethod
    def this(cls, folder: Path = Path()) -> "Machine":
        """The machine that this runs on, and the disk that holds `folder`."""
        disk = shutil.disk_usage(folder).free
        if has_gpu():
            return cls(torch.cuda.get_device_properties(0).name, True, device_memory(), disk)
        return cls("CPU", False, device_memory(), disk)
