"""``server.py`` as the mutant that KVLOG_MUTANT names: importing ``tests`` makes it one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tests  # noqa: F401 - comes before anything of kvlog
from server import main

if __name__ == "__main__":
    sys.exit(main())
