"""A node's HTTP side on a store that nobody writes to: ``snapshot_server.py PORT STORE INSTANCE WINDOW_S``.

The real application on the real server, without ZooKeeper: reads and snapshots are served, writes are not. A copy
of the store is given up when less than a mebibyte of it is read in WINDOW_S seconds.
"""

import multiprocessing
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kvlog.api.app import create_app
from kvlog.clock import SystemClock
from kvlog.config import parse
from kvlog.core.node import Node
from kvlog.core.values import NodeSettings
from kvlog.errors import Unavailable
from kvlog.front import Front, make_server
from kvlog.guard import Guard
from kvlog.peers import HttpPeers
from kvlog.runtime import Runtime
from kvlog.service.service import make_service
from kvlog.store.lmdb_copy import Pace
from kvlog.store.lmdb_store import LmdbStore


class NoLog:
    """The port EntryReader where there is no ZooKeeper."""

    def fetch(self, first_index: int, count: int) -> tuple[bytes, ...]:  # noqa: ARG002 - the port has them
        raise Unavailable("there is no ZooKeeper here")


def fail(code: int, reason: str) -> None:
    """The end of a node that cannot go on."""
    sys.exit(f"exit {code}: {reason}")


def make_app(port: str, directory: Path, instance: str, window_s: float) -> Front:
    """The application, in the worker."""
    settings = parse(["--port", port, "--zk", "127.0.0.1:1", "--data-dir", str(directory.parent)], {})
    clock, store = SystemClock(), LmdbStore(directory)
    node = Node(NodeSettings("n1", settings.advertise, instance, "catchup", 10), store, store.position())
    runtime = Runtime(node, store, clock, say=print, fail=fail, announce=print)
    service = make_service(
        settings,
        instance=instance,
        runtime=runtime,
        store=store,
        peers=HttpPeers(runtime.post, incoming=directory.with_name("store.incoming"), verify=None),
        log=NoLog(),
        clock=clock,
        kill=sys.exit,
        copy_store=partial(store.snapshot, pace=Pace(window_s, 1024 * 1024)),
    )
    return Front(create_app(service), Guard(fail))


def main() -> None:
    port, directory, instance, window_s = sys.argv[1:]
    multiprocessing.set_start_method("fork", force=True)
    server = make_server("127.0.0.1", int(port))
    server.serve(
        target_loader=lambda: make_app(port, Path(directory), instance, float(window_s)), wrap_loader=False
    )


if __name__ == "__main__":
    main()
