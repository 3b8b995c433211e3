"""``server.py`` with segments of SEGMENT entries in place of 1,000, so that whole ones fill up and go in seconds.

In the same proportion, the leader keeps fewer entries in memory to push them: else a node that was away would get
from there what the log does not hold any more. And replicas publish more often what they hold, because trims wait
for that. Nothing else is different; the size of the segments is part of what a cluster is (ROOT/cluster).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tests  # noqa: F401 - makes a mutant of what comes, if one is asked for
from kvlog.core import entry, replicator, retention

SEGMENT = 20
PUSHED_ENTRIES = 5
MARK_S = 0.4

if __name__ == "__main__":
    entry.SEGMENT_ENTRIES = SEGMENT
    replicator.RING_ENTRIES_MAX = PUSHED_ENTRIES
    retention.MARK_S = MARK_S
    from server import main  # what it imports takes the number over

    sys.exit(main())
