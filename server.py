"""Run one node of a kvlog cluster: ``python server.py --port 5000 --zk HOST:PORT[,HOST:PORT...]``.

Exit codes: 0 stopped, 2 settings that make no sense, 3 address, data directory or id in use, 4 the store and
ZooKeeper's log do not belong together, 5 the store failed, 6 a part of the process has stopped working, 70 a bug
in kvlog.
"""

import os
import signal
import sys

if __name__ == "__main__":
    # What is imported next takes a third of a second, and nothing is held yet: who is told to stop now just goes.
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, lambda *_: os._exit(0))

from kvlog import assembly, config
from kvlog.errors import KvlogError


def main() -> int:
    """Parse the settings and run; returns the exit code."""
    try:
        return assembly.run(config.parse(sys.argv[1:], os.environ))
    except KvlogError as error:
        sys.stderr.write(f"server.py: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
