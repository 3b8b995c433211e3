"""Shows, with real processes on this machine, what kvlog does when its leader dies: ``python demo.py --help``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from kvlog import demo

NODES_MIN, NODES_MAX = 3, 9
FIRST_PORT = 5000
PORT_MAX = 65_535

EPILOG = """\
Without --stale or --catchup both lessons are told, one after the other.

Every claim that the demo prints is checked first. Exit codes: 0 all claims are
true; 1 a claim is false (the last line says which); 2 the command line makes no
sense; 3 it could not be set up: no ZooKeeper, or a port is in use; 130 ended by
Ctrl-C, which cleans up.
"""


def main(arguments: Sequence[str]) -> int:
    """Parse the command line and tell the story; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # who ends it so wants it cleaned up as after Ctrl-C
    return demo.run(parse(arguments))


def parse(arguments: Sequence[str]) -> demo.Options:
    """What the command line (without the program's name) asks for.

    Raises:
        SystemExit: ``--help``, or arguments that make no sense (2).
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.zk is not None and given.kind != "auto":
        parser.error(f"--zk names a ZooKeeper that runs, --{given.kind} has one started: choose one of them")
    return demo.Options(
        stale=given.stale or not given.catchup,
        catch_up=given.catchup or not given.stale,
        ports=_ports(parser, given.nodes, given.ports),
        zk=given.zk,
        kind=given.kind,
        keep=given.keep,
        json=given.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo.py",
        description="Shows what kvlog does when its leader dies, step by step, with real processes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    lessons = parser.add_argument_group("lessons")
    lessons.add_argument("--stale", action="store_true", help="the dead leader comes back with its old data")
    lessons.add_argument("--catchup", action="store_true", help="the dead leader comes back and replays the log")
    nodes = parser.add_argument_group("nodes")
    nodes.add_argument(
        "--nodes", type=int, metavar="N", help=f"how many, from {NODES_MIN} to {NODES_MAX} ({NODES_MIN})"
    )
    nodes.add_argument("--ports", metavar="A,B,C", help=f"their ports ({FIRST_PORT}, {FIRST_PORT + 1}, ...)")
    zookeeper = parser.add_argument_group("ZooKeeper (by default Docker if that works, else local Java)")
    zookeeper.add_argument(
        "--zk",
        metavar="HOST:PORT,...",
        help="use one that runs; a new znode is made in it, and deleted at the end",
    )
    kinds = zookeeper.add_mutually_exclusive_group()
    kinds.add_argument("--docker", dest="kind", action="store_const", const="docker", help="start containers")
    kinds.add_argument("--local", dest="kind", action="store_const", const="local", help="start Java processes")
    parser.add_argument("--keep", action="store_true", help="leave everything running at the end, until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="say each step as a line of JSON, for programs")
    parser.set_defaults(kind="auto")
    return parser


def _ports(parser: argparse.ArgumentParser, count: int | None, text: str | None) -> tuple[int, ...]:
    if text is None:
        ports = tuple(range(FIRST_PORT, FIRST_PORT + (NODES_MIN if count is None else count)))
    else:
        try:
            ports = tuple(int(part) for part in text.split(","))
        except ValueError:
            parser.error(f"--ports {text}: must be numbers with commas in between, for example 6000,6001,6002")
        if count not in (None, len(ports)):
            parser.error(f"--nodes {count} and --ports {text} contradict each other: leave --nodes out")
    if not NODES_MIN <= len(ports) <= NODES_MAX:
        parser.error(f"{len(ports)} nodes: must be from {NODES_MIN} to {NODES_MAX}")
    if len(set(ports)) < len(ports) or not all(0 < port <= PORT_MAX for port in ports):
        parser.error(f"--ports {text}: must be different numbers from 1 to {PORT_MAX}")
    return ports


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
