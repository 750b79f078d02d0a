"""What this machine has for models: memory, and room on the disk."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch


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
        if torch.cuda.is_available():
            found = torch.cuda.get_device_properties(0)
            return cls(found.name, True, found.total_memory, disk)
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return cls("CPU", False, memory, disk)
