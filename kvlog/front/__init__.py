"""The HTTP front of a node: one event loop for all connections, and a bounded pool of threads behind it.

Granian hands every request to a Front, on the event loop. For some paths there is a handler that answers right
there: one that waits for hours holds no thread. Everything else is carried out by the WSGI application (Flask) on
the pool.

Granian speaks ASGI to it, and not RSGI. Tried with 2.8.7: RSGI queues without a limit what is sent to a slow
client (400 MiB of a stream stood in memory), gives the path only after ``%2F`` has become ``/``, and drops a
header whose value is not ASCII without a word. In ASGI sending waits, and path and headers come as they were sent.
"""

from kvlog.front.exchange import (
    Answer,
    AsyncHandler,
    Begin,
    Exchange,
    Reply,
    Scope,
    Shortcut,
    Stream,
    query_of,
)
from kvlog.front.front import CONNECTIONS_MAX, THREADS, WAITING_MAX, Front, make_server

__all__ = [
    "CONNECTIONS_MAX",
    "THREADS",
    "WAITING_MAX",
    "Answer",
    "AsyncHandler",
    "Begin",
    "Exchange",
    "Front",
    "Reply",
    "Scope",
    "Shortcut",
    "Stream",
    "make_server",
    "query_of",
]
