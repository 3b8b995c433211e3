"""SIGTERM while a node is still coming up: it ends in order, and leaves nothing held."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kvlog.cluster import Cluster, ClusterNode, server_command
from kvlog.processes import ProcessKeeper, wait_until

WAIT_S = 20.0

MOMENTS_S = (0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8, 1.2)
"""After how long it is told to stop; both signals come to the same handler, so one of them is enough for most."""


def listens_to_sigterm(pid: int) -> bool:
    """Whether the process has a handler for SIGTERM, as the kernel tells (proc(5): SigCgt)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def lock_is_free(node: ClusterNode) -> bool:
    """Whether the next node could claim the data directory; true where there is none yet."""
    path = node.data_dir / "lock"
    if not path.exists():
        return True
    lock = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_told_to_stop_while_it_is_being_imported_just_goes(
    keeper: ProcessKeeper, tmp_path: Path, number: signal.Signals
):
    """Exit code 0: an import of a third of a second, here one that hangs, is no reason to die by a signal."""
    (tmp_path / "granian.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    child = keeper.start(
        [*server_command(0), "--zk", "127.0.0.1:1"],
        name="node",
        log=tmp_path / "log",
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    )
    assert wait_until(lambda: child.log_tail() == "importing", WAIT_S), child.log_tail()

    os.kill(child.pid, number)

    assert child.wait(WAIT_S) == 0
    assert child.log_tail() == "importing"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_told_to_stop_while_it_starts_ends_in_order(
    make_cluster: Callable[..., Cluster], number: signal.Signals
):
    """Exit code 0 at any moment since it listens to signals, which is the first thing it does."""
    cluster = make_cluster(1)
    (node,) = cluster.nodes
    for moment_s in MOMENTS_S if number == signal.SIGTERM else MOMENTS_S[::3]:
        node.start(wait=False)
        assert wait_until(lambda: listens_to_sigterm(node.child.pid), WAIT_S, every_s=0.001)
        time.sleep(moment_s)

        told_at = time.monotonic()
        os.kill(node.child.pid, number)

        assert node.child.wait(WAIT_S) == 0, f"after {moment_s} s:\n{node.child.log_tail()}"
        assert time.monotonic() - told_at < 5, f"after {moment_s} s:\n{node.child.log_tail()}"
        assert lock_is_free(node)
        assert "Traceback" not in node.log.read_text()
    node.start()
    assert node.update("key", "value").status == 200
