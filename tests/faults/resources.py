"""What nodes and servers hold of what is limited: threads, descriptors, memory, sessions, znodes."""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kvlog.ensemble import LocalEnsemble

ANSWER_S = 2.0


@dataclass(frozen=True, slots=True)
class ProcessResources:
    """What a node's processes hold together, supervisor and worker; or those of one ZooKeeper server.

    Attributes:
        name: the node's address, or the server's.
        processes, threads, descriptors: how many.
        rss_kib: resident memory.
    """

    name: str
    processes: int
    threads: int
    descriptors: int
    rss_kib: int


@dataclass(frozen=True, slots=True)
class Resources:
    """All of an arena, at one moment.

    Attributes:
        nodes, servers: of those that run.
        sessions: that the ensemble knows, the one asked for this not among them.
        connections: to all its servers.
        znodes, ephemerals, watches: as its leader counts them; watches are those of all servers.
    """

    nodes: tuple[ProcessResources, ...]
    servers: tuple[ProcessResources, ...]
    sessions: int
    connections: int
    znodes: int
    ephemerals: int
    watches: int


def processes_below(pid: int) -> list[int]:
    """A process and all that come from it, as far as they are there."""
    found = [pid]
    with suppress(OSError):  # it has just ended
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += processes_below(int(child))
    return found


def of_process(name: str, pid: int) -> ProcessResources:
    """What a process and those below it hold; nothing, if it has ended."""
    pids, threads, descriptors, rss_kib = processes_below(pid), 0, 0, 0
    for each in pids:
        with suppress(OSError):  # it has just ended
            descriptors += len(list(Path(f"/proc/{each}/fd").iterdir()))
            for line in Path(f"/proc/{each}/status").read_text().splitlines():
                if line.startswith("Threads:"):
                    threads += int(line.split()[1])
                elif line.startswith("VmRSS:"):
                    rss_kib += int(line.split()[1])
    return ProcessResources(name, len(pids), threads, descriptors, rss_kib)


def ask_server(port: int, word: str, *, timeout_s: float = ANSWER_S) -> str:
    """A ZooKeeper server's answer to one of its words of four letters.

    Raises:
        OSError: there is none.
    """
    answer = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(word.encode())
        while data := connection.recv(65536):
            answer += data
    return answer.decode(errors="replace")


def figures(port: int) -> dict[str, int]:
    """What a server counts (``mntr``); nothing while it does not serve.

    Raises:
        OSError: it does not answer.
    """
    found = {}
    for line in ask_server(port, "mntr").splitlines():
        name, _, value = line.partition("\t")
        with suppress(ValueError):  # a text, or a fraction: an average
            found[name] = int(value)
    return found


def of_ensemble(ensemble: LocalEnsemble) -> tuple[tuple[ProcessResources, ...], dict[str, int]]:
    """What its servers hold, and what they count together: see Resources.

    Raises:
        OSError: a server that runs does not answer.
    """
    running = [(server.client_port, server.pid) for server in ensemble.servers if server.pid is not None]
    counted = [figures(port) for port, _ in running]
    leading = next((each for each in counted if "zk_synced_followers" in each), {})
    return tuple(of_process(f"127.0.0.1:{port}", pid) for port, pid in running), {
        "sessions": leading.get("zk_global_sessions", 0),
        "connections": sum(each.get("zk_num_alive_connections", 1) - 1 for each in counted),
        "znodes": leading.get("zk_znode_count", 0),
        "ephemerals": leading.get("zk_ephemerals_count", 0),
        "watches": sum(each.get("zk_watch_count", 0) for each in counted),
    }
