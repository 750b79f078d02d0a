"""What is loaded where: the process that hands out the work stays small."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from sails_eval.cli import main

if __name__ == "__main__":
    command = "compare --methods sails,lora --seeds 1 --learning-rates 1 --limit 2 --tokens 200 --out run -q"
    assert main(command.split()) == 0
    print(*sys.modules)
"""


@pytest.mark.slow
def test_comparing_never_loads_torch_in_the_parent(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "job.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "sails_eval.run.compare" in loaded
    assert not loaded & {"torch", "transformers", "peft", "trl", "sae_lens"}
