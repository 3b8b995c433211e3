"""The demo: a story told with real processes, in which every claim is checked.

``narrator`` says it (terminal, plain text or JSON lines), ``scene`` holds what the story is about and reads the
nodes, ``lessons`` is the story, ``stage`` sets everything up and takes it down again.
"""

from kvlog.demo.narrator import ClaimFalse
from kvlog.demo.stage import Options, run

__all__ = ["ClaimFalse", "Options", "run"]
