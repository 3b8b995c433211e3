"""The command line: ``python -m kvlog --help``, or ``kvlog --help`` where the package is installed."""

import os
import sys

from kvlog.cli.main import main


def run() -> int:
    """Run what this process was started for; returns its exit code."""
    return main(sys.argv[1:], os.environ)


if __name__ == "__main__":
    sys.exit(run())
