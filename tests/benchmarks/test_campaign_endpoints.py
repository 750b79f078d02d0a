"""The campaign against faulty endpoints, in its short form."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.server
def test_the_short_form_sees_what_is_to_be_seen() -> None:
    script = ROOT / "benchmarks" / "campaign_endpoints.py"
    done = subprocess.run([sys.executable, script, "--short"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
