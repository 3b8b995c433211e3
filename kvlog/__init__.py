"""kvlog: a replicated key-value store whose write-ahead log is ZooKeeper.

``from kvlog import Client`` is the client, and ``AsyncClient`` the one for asyncio. Both are imported when they
are asked for: a node needs neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvlog.client import AsyncClient, Client

__version__ = "0.1.0"

__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> object:
    if name in {"AsyncClient", "Client"}:
        return getattr(import_module("kvlog.client"), name)
    raise AttributeError(f"module 'kvlog' has no attribute {name!r}")
