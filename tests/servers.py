"""Servers that tests start."""

import subprocess
import time
import urllib.request
from pathlib import Path


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, *, tries: int) -> None:
    """Until a server answers, with up to `tries` looks; fails with its log where it ends or never answers."""
    for _ in range(tries):
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"no answer at {url}: {log.read_text()}")
