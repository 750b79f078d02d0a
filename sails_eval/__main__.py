"""`python -m sails_eval` is `sails-eval`."""

import sys

from sails_eval.cli import main

if __name__ == "__main__":
    sys.exit(main())
