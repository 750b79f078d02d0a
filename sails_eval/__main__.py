"""`python -m sails_eval` is `sails-eval`. Signals are caught before the rest is imported."""

import gc
import sys

from sails_eval.core.stopping import catch_signals, say_stopped


def run() -> int:
    """The program; its exit status."""
    try:
        catch_signals()
        gc.set_threshold(100_000)  # a sixth of the time that importing torch and the rest takes goes into collecting
        from sails_eval.cli import main

        return main()
    except KeyboardInterrupt as error:
        return say_stopped(error)


if __name__ == "__main__":
    sys.exit(run())
