"""The operators' command line: ``python -m kvlog --help``."""

import os
import sys

from kvlog.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
