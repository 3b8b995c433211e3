"""A node's settings: from flags, or from KVLOG_* variables; flags win. Nothing else reads the environment."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kvlog.errors import SettingsError

WRITE_TIMEOUT_S = 5.0
"""How long a write may take if the client does not say."""

WRITE_TIMEOUT_MAX_S = 60.0

PORT_MAX = 65_535

_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")
_NODE_ID = re.compile(r"[A-Za-z0-9._:\[\]-]{1,100}")
_ROOT = re.compile(r"(/[A-Za-z0-9._-]+)+")
_WILDCARDS = ("0.0.0.0", "::", "[::]")  # noqa: S104 - to refuse telling others to connect there


@dataclass(frozen=True, slots=True)
class Settings:
    """What a node is told.

    Attributes:
        host: address to listen on.
        port: TCP port to listen on.
        zk: ZooKeeper's servers, ``host:port`` separated by commas.
        root: znode below which the cluster keeps everything.
        node_id: name of this node in the cluster, unique.
        advertise: ``host:port`` at which the other nodes reach this one.
        data_dir: directory of the store; one process at a time.
        recover: ``catchup`` (replay what was missed) or ``stale`` (keep the store as it is, and say so).
        session_timeout_s: ZooKeeper session timeout in seconds; the ensemble may change it to its own bounds.
        retain_entries: entries that stay in the log although a majority holds them.
        log_bytes_max: how much of ZooKeeper's memory the log may take.
        request_window: for how many revisions requests are remembered; counts for whoever makes the log.
        history: of how many revisions this node keeps the changes, and can tell the state.
        demo: answer /kill, and let failpoints be armed.
        failpoint: what to arm from the start, in the words of kvlog.failpoints; only with ``demo``.
        hot_path: answer the hottest routes without Flask; no answer differs by a byte.
    """

    host: str
    port: int
    zk: str
    root: str
    node_id: str
    advertise: str
    data_dir: Path
    recover: str
    session_timeout_s: float
    demo: bool
    retain_entries: int
    log_bytes_max: int
    request_window: int
    history: int
    failpoint: str
    hot_path: bool = True

    @property
    def url(self) -> str:
        """Where this node's API is."""
        return f"http://{self.advertise}"


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """The settings from a command line without the program's name, and from the environment.

    Raises:
        SettingsError: a setting is missing or makes no sense; says which and what it should be.
        SystemExit: ``--help``, or a flag that does not exist.
    """
    given = _parser(environment).parse_args(arguments)
    port = _number("--port", given.port, 1, PORT_MAX)
    if port != int(port):
        raise SettingsError(f"--port {given.port}: must be a whole number")
    check_zookeeper(given.zk, given.root)
    if given.recover not in ("catchup", "stale"):
        raise SettingsError(f"--recover {given.recover!r}: must be catchup or stale")
    advertise = given.advertise
    if not advertise:
        if given.host in _WILDCARDS:
            raise SettingsError(
                f"--host {given.host} listens everywhere, but the other nodes need one address of this one: "
                "say --advertise HOST:PORT"
            )
        advertise = f"[{given.host}]:{int(port)}" if ":" in given.host else f"{given.host}:{int(port)}"
    _address("--advertise", advertise)
    node_id = given.id or advertise
    if not _NODE_ID.fullmatch(node_id):
        raise SettingsError(f"--id {node_id!r}: up to 100 of the characters A-Z a-z 0-9 . _ : [ ] -")
    demo = _flag("--demo", given.demo)
    if given.failpoint and not demo:
        raise SettingsError(
            f"--failpoint {given.failpoint!r}: makes a node fail on purpose, so it is taken only with --demo; "
            "leave it out, or add --demo if nobody depends on this node"
        )
    return Settings(
        host=given.host,
        port=int(port),
        zk=given.zk,
        root=given.root,
        node_id=node_id,
        advertise=advertise,
        data_dir=Path(given.data_dir or f"data/{int(port)}"),
        recover=given.recover,
        session_timeout_s=_number("--session-timeout", given.session_timeout, 1, 120),
        retain_entries=round(_number("--retain", given.retain, 0, 1_000_000)),
        log_bytes_max=round(_number("--log-limit-mb", given.log_limit_mb, 1, 16_384) * 2**20),
        request_window=round(_number("--request-window", given.request_window, 100, 10_000_000)),
        history=round(_number("--history", given.history, 0, 10_000_000)),
        demo=demo,
        failpoint=given.failpoint,
        hot_path=_flag("--hot-path", given.hot_path),
    )


def check_zookeeper(zk: str, root: str) -> None:
    """Refuse settings that cannot say where a cluster's log is.

    Raises:
        SettingsError: ``zk`` is missing or no list of servers, or ``root`` no path of a znode.
    """
    if not zk:
        raise SettingsError(
            "--zk is missing: say where ZooKeeper is, as --zk HOST:PORT[,HOST:PORT...] or KVLOG_ZK; "
            "`docker compose up -d zk1 zk2 zk3` starts one on 127.0.0.1:2181,127.0.0.1:2182,127.0.0.1:2183"
        )
    for server in zk.split(","):
        _address("--zk", server)
    if not _ROOT.fullmatch(root):
        raise SettingsError(f"--root {root!r}: must look like /kvlog or /teams/kvlog, without a slash at the end")


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="server.py",
        description="One node of a kvlog cluster: a replicated key-value store whose log is ZooKeeper.",
        epilog="Each setting may also be given as a variable, KVLOG_PORT for --port and so on; flags win.",
    )

    def setting(flag: str, default: str, text: str, metavar: str) -> None:
        variable = "KVLOG_" + flag.removeprefix("--").upper().replace("-", "_")
        parser.add_argument(flag, default=environment.get(variable, default), help=text, metavar=metavar)

    setting("--host", "127.0.0.1", "address to listen on (127.0.0.1)", "HOST")
    setting("--port", "5000", "port to listen on (5000)", "PORT")
    setting("--zk", "", "ZooKeeper's servers", "HOST:PORT[,...]")
    setting("--root", "/kvlog", "znode of the cluster (/kvlog)", "PATH")
    setting("--id", "", "name of this node, unique in the cluster (the advertised address)", "ID")
    setting("--advertise", "", "address at which the other nodes reach this one (host:port)", "HOST:PORT")
    setting("--data-dir", "", "directory of the store (data/<port>)", "DIR")
    setting("--recover", "catchup", "what to do about missed entries: catchup or stale (catchup)", "HOW")
    setting("--session-timeout", "10", "ZooKeeper session timeout in seconds (10)", "SECONDS")
    setting("--retain", "10000", "entries that stay in the log although a majority holds them (10000)", "ENTRIES")
    setting("--log-limit-mb", "256", "how much of ZooKeeper's memory the log may take, in MiB (256)", "MIB")
    setting(
        "--request-window",
        "100000",
        "for how many updates an Idempotency-Key is remembered; fixed when the cluster is made (100000)",
        "UPDATES",
    )
    setting("--history", "100000", "how many updates back this node can tell what was there (100000)", "UPDATES")
    setting("--hot-path", "1", "answer reads of a key and writes at the leader without Flask (1)", "1|0")
    parser.add_argument(
        "--demo",
        nargs="?",
        const="1",
        default=environment.get("KVLOG_DEMO", ""),
        help="answer /kill and /v1/failpoints, for demonstrations and tests",
        metavar="1|0",
    )
    setting("--failpoint", "", "with --demo: where to fail on purpose, for tests", "NAME:ACTION[@N][,...]")
    return parser


def _number(flag: str, text: str, low: float, high: float) -> float:
    try:
        number = float(text)
    except ValueError:
        raise SettingsError(f"{flag} {text!r}: must be a number") from None
    if not low <= number <= high:  # also refuses NaN
        raise SettingsError(f"{flag} {text}: must be from {low} to {high}")
    return number


def _flag(name: str, text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("", "0", "false", "no", "off"):
        return False
    raise SettingsError(f"{name} {text!r}: must be 1 or 0")


def _address(flag: str, text: str) -> None:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= PORT_MAX:
        raise SettingsError(f"{flag} {text!r}: must be HOST:PORT, for example 127.0.0.1:2181")
