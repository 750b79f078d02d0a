"""Signals, each in a program of its own."""

import signal
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
import os, signal, sys, threading, time
from sails_eval.core import stopping
from sails_eval.core.stopping import catch_signals, held, say_stopped

def work():
{work}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    catch_signals()
    try:
        work()
    except KeyboardInterrupt as error:
        sys.exit(say_stopped(error))
"""

WAIT = "print('ready', flush=True)\nthreading.Event().wait(60)"

SWALLOWED = f"""
try:
{textwrap.indent(WAIT, "    ")}
except KeyboardInterrupt:  # as some libraries do
    print("again", flush=True)
threading.Event().wait(60)
"""


def program(work: str) -> subprocess.Popen[str]:
    """A program that has caught signals and is at `work`."""
    text = PROGRAM.format(work=textwrap.indent(work, "    "))
    started = subprocess.Popen([sys.executable, "-c", text], stdout=-1, stderr=-1, text=True)
    assert started.stdout is not None and started.stdout.readline() == "ready\n"
    return started


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda one: str(one)
)
def test_a_signal_is_a_line_on_how_to_resume_and_its_status(number: signal.Signals, status: int) -> None:
    one = program(WAIT)
    one.send_signal(number)
    _, told = one.communicate()
    assert one.returncode == status
    assert told == (
        f"sails-eval: stopped ({number.name}); finished work is kept: give the same command again to resume\n"
    )


def test_a_second_signal_ends_at_once_what_the_first_did_not() -> None:
    one = program(f"stopping.GRACE = 60\n{SWALLOWED}")
    one.send_signal(signal.SIGINT)
    assert one.stdout is not None and one.stdout.readline() == "again\n"
    one.send_signal(signal.SIGINT)
    assert one.communicate() == ("", "") and one.returncode == 130


def test_what_holds_the_first_signal_up_is_ended_after_a_while() -> None:
    one = program(f"stopping.GRACE = 0.1\n{SWALLOWED}")
    one.send_signal(signal.SIGTERM)
    _, told = one.communicate()
    assert one.returncode == 143 and told.count("\n") == 1 and "stopped (SIGTERM)" in told


def test_signals_wait_for_the_end_of_a_block_that_holds_them() -> None:
    work = """
print("ready", flush=True)
with held(), held():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    print("whole", flush=True)
print("beyond", flush=True)
"""
    one = program(work)
    assert one.communicate()[0] == "whole\n" and one.returncode == 143


def test_what_is_ignored_stays_ignored() -> None:
    """As with nohup."""
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    text = ignoring + PROGRAM.format(work="    os.kill(os.getpid(), signal.SIGHUP); print('on')")
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "on\n"
