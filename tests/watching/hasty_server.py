"""``server.py`` with less patience and room for watchers: ``hasty_server.py SEND_S WATCHERS_MAX FLAGS...``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kvlog.api import watch
from kvlog.watching import hub

if __name__ == "__main__":
    program, send_s, watchers_max, *flags = sys.argv
    watch.SEND_S = float(send_s)
    hub.WATCHERS_MAX = int(watchers_max)
    sys.argv = [program, *flags]
    from server import main

    sys.exit(main())
