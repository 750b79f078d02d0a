"""Kill a comparison in every stage, in every way, resume it, and compare what it comes to with an undisturbed run.

    python benchmarks/campaign_kills.py            # six ways, nine stages, and full disks
    python benchmarks/campaign_kills.py --short    # three kills

The run is a small one of the embedded testbed. Each way of killing gets a run folder of its own, in which the run is
killed once in every stage and then resumed to its end; full disks take the right to mount a tmpfs. The exit status is 1
where results differ, a process survives, or a run that was killed says anything but one line on how to resume.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

COMPARE = "compare --pair testbed --methods sails,lora --seeds 2 --learning-rates 2 --tokens 400 --limit 4 --jobs 2"
SHORT = "compare --pair testbed --methods lora --seeds 1 --learning-rates 1 --tokens 400 --limit 2 --jobs 2"
SHORT_TASKS = "--tasks testbed_harmful_unseen,testbed_lookalike"

STAGES = {
    "starting": "",
    "subspace": "subspace/*",
    "training": "cells/*/*/checkpoint.partial",
    "trained": "cells/*/*/train.json",
    "validation answers": "cells/*/**/completions/validation/*",
    "validation verdicts": "cells/*/**/verdicts/*/validation/*",
    "test answers": "cells/*/**/completions/test/*",
    "test verdicts": "cells/*/**/verdicts/*/test/*",
    "report": "results.csv",
}
"""Each stage, and the files whose first new one shows that the run has got there."""

WAIT = 300.0
"""Seconds for a run to get anywhere."""

SIZES_KIB = (30, 120, 200)
"""Of the disk, which is full at each of them somewhere else."""


@dataclass(frozen=True)
class Way:
    """How a run is killed: a signal to the program, to it and its workers as a terminal does, or to one worker."""

    name: str
    number: int
    to: str
    statuses: tuple[int, ...]


WAYS = (
    Way("Ctrl-C", signal.SIGINT, "all", (130,)),
    Way("SIGTERM", signal.SIGTERM, "program", (143,)),
    Way("SIGHUP", signal.SIGHUP, "all", (129,)),
    Way("SIGKILL", signal.SIGKILL, "program", (-9,)),
    Way("worker SIGKILL", signal.SIGKILL, "worker", (2,)),
    Way("worker SIGTERM", signal.SIGTERM, "worker", (2,)),
)


@dataclass(frozen=True)
class Killed:
    """What a kill came to: seconds until the program had ended, its status, and what it said on stderr."""

    way: Way
    stage: str
    seconds: float
    status: int
    said: str
    survivors: int

    @property
    def problems(self) -> Iterator[str]:
        told = self.said.splitlines()
        if self.status not in self.way.statuses:
            yield f"status {self.status}"
        if "Traceback" in self.said or "leaked" in self.said:
            yield "said " + told[-1]
        if self.survivors:
            yield f"{self.survivors} processes survived"
        if self.way.number != signal.SIGKILL and sum("to resume" in line for line in told) != 1:
            yield "no line, or several, on how to resume"


class Campaign:
    """A command, and a folder for its runs."""

    def __init__(self, command: str, folder: Path) -> None:
        self._command, self._folder = command, folder
        self.undisturbed = self.finish(folder / "undisturbed")

    def start(self, run: Path) -> "subprocess.Popen[str]":
        words = [sys.executable, "-m", "sails_eval", *self._command.split(), "--quiet", "--out", str(run)]
        return subprocess.Popen(words, text=True, stdout=subprocess.DEVNULL, stderr=-1, start_new_session=True)

    def finish(self, run: Path) -> bytes:
        """Let a run come to its end; its results.csv."""
        started = self.start(run)
        _, said = started.communicate()
        if started.returncode:
            raise SystemExit(f"{run.name}: status {started.returncode}\n{said}")
        return (run / "results.csv").read_bytes()

    def kill(self, run: Path, way: Way, stage: str) -> Killed | None:
        """Kill a run in a stage; None where it has no worker then, or is over."""
        before = self._files(run, stage)
        started = self.start(run)
        if STAGES[stage]:
            found = _until(lambda: started.poll() is not None or bool(self._files(run, stage) - before))
        else:
            found = _until(lambda: started.poll() is not None or any(map(_is_worker, _below(started.pid))))
        processes = _below(started.pid)
        workers = [one for one in processes if _is_worker(one)]
        if not found or started.poll() is not None or (way.to == "worker" and not workers):
            started.communicate()
            return None
        began = time.perf_counter()
        if way.to == "all":
            os.killpg(started.pid, way.number)
        else:
            os.kill(started.pid if way.to == "program" else workers[0].pid, way.number)
        _, said = started.communicate()
        seconds = time.perf_counter() - began
        _, alive = psutil.wait_procs(processes, timeout=5)
        for one in alive:
            one.kill()
        return Killed(way, stage, seconds, started.returncode, said, len(alive))

    def _files(self, run: Path, stage: str) -> set[Path]:
        pattern = STAGES[stage]
        return set(run.glob(pattern)) if pattern else set()


def _below(pid: int) -> list[psutil.Process]:
    """The processes that a process has started; none where it is over."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _until(holds: Callable[[], bool]) -> bool:
    """Whether it held before the time was over."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.005)
    return False


def kills(campaign: Campaign, folder: Path, cases: dict[Way, list[str]]) -> int:
    """Kill in all these stages, way by way, and print what it came to; the number of problems."""
    print(f"{'way':16}{'kills':>6}{'slowest exit':>14}{'results':>11}  problems")
    problems = 0
    for way, stages in cases.items():
        run = folder / way.name.replace(" ", "-")
        done = [one for stage in stages if (one := campaign.kill(run, way, stage)) is not None]
        same = campaign.finish(run) == campaign.undisturbed
        found = [f"{one.stage}: {problem}" for one in done for problem in one.problems]
        problems += len(found) + (not same) + (not done)
        slowest = max((one.seconds for one in done), default=0.0)
        told = "identical" if same else "DIFFER"
        print(f"{way.name:16}{len(done):6}{slowest:12.2f} s{told:>11}  {', '.join(found) or 'none'}", flush=True)
    return problems


def full_disks(campaign: Campaign, folder: Path) -> int:
    """Let the disk be full at several sizes, then give it room and resume; the number of problems."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        print("full disks: skipped, since this user cannot mount a tmpfs here")
        return 0
    problems = 0
    try:
        for size in (*SIZES_KIB, 20 * 1024):
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(disk)], check=True)
            started = campaign.start(disk / "run")
            _, said = started.communicate()
            told = said.strip().splitlines()
            if size == 20 * 1024:
                same = (disk / "run/results.csv").read_bytes() == campaign.undisturbed
                print(f"full disks: {len(SIZES_KIB)}, then room: {'identical' if same else 'DIFFER'}", flush=True)
                problems += not same
            elif started.returncode != 2 or len(told) != 1 or "no space left on device" not in told[0]:
                print(f"full disk of {size} KiB: status {started.returncode}: {said}", flush=True)
                problems += 1
    finally:
        subprocess.run(["umount", str(disk)], check=False)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="three kills of a smaller run, and no full disk")
    names = [way.name for way in WAYS]
    parser.add_argument("--way", action="append", choices=names, help="only this way, without full disks; repeatable")
    given = parser.parse_args()
    short, ways = given.short, given.way or names
    began = time.perf_counter()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would runs
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        campaign = Campaign(f"{SHORT} {SHORT_TASKS}" if short else COMPARE, folder)
        # when the report is there, a worker has nothing left to do
        cases = {way: [stage for stage in STAGES if (way.to, stage) != ("worker", "report")] for way in WAYS}
        cases = {way: stages for way, stages in cases.items() if way.name in ways}
        if short:
            interrupted, terminated, *_ = WAYS
            cases = {interrupted: ["training", "test answers"], terminated: ["starting"]}
        problems = kills(campaign, folder, cases)
        problems += 0 if short or given.way else full_disks(campaign, folder)
    print(f"{problems} problems in {time.perf_counter() - began:.0f} s")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
