"""``server.py`` on a machine whose wall clock jumps: each look at it is a day early or a day late, in turn."""

import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

DAY_S = 86_400

if __name__ == "__main__":
    right, right_ns, odd = time.time, time.time_ns, itertools.cycle((-DAY_S, DAY_S))
    time.time = lambda: right() + next(odd)
    time.time_ns = lambda: right_ns() + next(odd) * 1_000_000_000
    from server import main

    sys.exit(main())
