"""The short forms of the campaigns, which make campaigns runs for long."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_run_that_is_killed_and_resumed_comes_to_the_same() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/campaign_kills.py"), "--short"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "\n0 problems" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_no_broken_file_ends_in_a_traceback() -> None:
    command = [sys.executable, str(ROOT / "benchmarks/campaign_fuzz.py"), "--files", "900"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
