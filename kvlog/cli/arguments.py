"""What the command line understands: one value class per command, made from flags and KVLOG_* variables."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from kvlog.config import check_zookeeper
from kvlog.errors import SettingsError

PROGRAM = "python -m kvlog"
NODE = "http://127.0.0.1:5000"
"""The node that is asked if none is given: that of ``python server.py`` without flags."""

REASON_MAX = 500
"""Characters of the reason for a skip, which goes into the log."""

SKIP_WAIT_S = 30.0
"""How long ``log skip`` waits for the nodes to go past the entry."""

_NODE = re.compile(r"https?://[^/\s?#]+")
_Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no other name


@dataclass(frozen=True, slots=True)
class Backup:
    """Download a snapshot into ``file``; ``force``: whatever is there now."""

    nodes: tuple[str, ...]
    file: Path
    force: bool


@dataclass(frozen=True, slots=True)
class Verify:
    """Check a backup from its first byte to its last key."""

    file: Path


@dataclass(frozen=True, slots=True)
class Restore:
    """Begin an empty cluster with a backup."""

    zk: str
    root: str
    file: Path
    data_dir: Path


@dataclass(frozen=True, slots=True)
class Recover:
    """Begin a new log with the best of the stores that are left; without ``start``, only say which."""

    zk: str
    root: str
    data_dirs: tuple[Path, ...]
    start: bool


@dataclass(frozen=True, slots=True)
class SkipEntry:
    """Have all nodes go past the entry at ``index``, which none of them can apply."""

    nodes: tuple[str, ...]
    index: int
    reason: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """What each member says of itself."""

    nodes: tuple[str, ...]
    as_json: bool


@dataclass(frozen=True, slots=True)
class RemoveReplica:
    """Stop counting on a node that does not come back."""

    nodes: tuple[str, ...]
    node_id: str


@dataclass(frozen=True, slots=True)
class AskRequest:
    """What became of a request; ``settle``: if it is not committed, it shall never be."""

    nodes: tuple[str, ...]
    request_id: str
    settle: bool


Command = Backup | Verify | Restore | Recover | SkipEntry | ShowStatus | RemoveReplica | AskRequest


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Command:
    """The command from a command line without the program's name, and from the environment.

    Raises:
        SettingsError: a flag's value makes no sense; says which and what it should be.
        SystemExit: ``--help``, or a command or flag that does not exist.
    """
    given = _parser(environment).parse_args(arguments)
    make: Callable[[argparse.Namespace], Command] = given.make
    return make(given)


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="For who runs a kvlog cluster: backups, recovery, and what the nodes say.",
        epilog="--node, --zk, --root and --data-dir may also be given as KVLOG_NODE and so on; flags win. "
        "Exit codes: 0 done, 1 not done, 2 wrong usage.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_backup(commands, environment)
    _add_verify(commands)
    _add_restore(commands, environment)
    _add_recover(commands, environment)
    _add_skip(commands, environment)
    _add_status(commands, environment)
    _add_replicas(commands, environment)
    _add_request(commands, environment)
    return parser


# --- the commands ---------------------------------------------------------------------------------------------


def _add_backup(commands: _Subparsers, environment: Mapping[str, str]) -> None:
    parser = _command(
        commands,
        "backup",
        "write a node's data to a file",
        "Downloads a consistent snapshot of a node's data, checks it on the way, and puts it into FILE only once "
        "all of it is there. Nodes with missed entries are passed over. `verify FILE` checks the data itself.",
        lambda given: Backup(_nodes(given.node, environment), given.file, given.force),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the file to write")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    _add_node(parser)


def _add_verify(commands: _Subparsers) -> None:
    parser = _command(
        commands,
        "verify",
        "check a backup",
        "Checks the file's checksum, unpacks it beside the file, reads every key and recomputes the digest. Needs "
        "no node and no ZooKeeper, but free disk space of the file's size.",
        lambda given: Verify(given.file),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup")


def _add_restore(commands: _Subparsers, environment: Mapping[str, str]) -> None:
    parser = _command(
        commands,
        "restore",
        "begin an empty cluster with a backup",
        "Checks FILE, puts it into the data directory of one node that does not run, and makes a new log below "
        "--root that begins behind it. Start that node then; all others come with empty data directories and take "
        "its snapshot. If it is interrupted, run the same command again.",
        lambda given: Restore(*_place(given), given.file, _data_dirs([given.data_dir])[0]),
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup")
    _add_place(parser, environment)
    parser.add_argument(
        "--data-dir",
        default=environment.get("KVLOG_DATA_DIR", ""),
        metavar="DIR",
        help="data directory of the node that begins",
    )


def _add_recover(commands: _Subparsers, environment: Mapping[str, str]) -> None:
    parser = _command(
        commands,
        "recover",
        "begin a new log after ZooKeeper has lost its data",
        "Checks the stores of nodes that do not run, says which one has the most, and with --start-a-new-log "
        "makes "
        "a new log below --root that begins behind it. Acknowledged writes that only the lost log had are gone. "
        "The other stores are moved to store.before-recover: their nodes come back with a snapshot. If it is "
        "interrupted, run the same command again.",
        lambda given: Recover(
            *_place(given),
            _data_dirs(given.data_dir or environment.get("KVLOG_DATA_DIR", "").split(",")),
            given.start_a_new_log,
        ),
    )
    _add_place(parser, environment)
    parser.add_argument(
        "--data-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="data directory of a node; give all that are left, one --data-dir each",
    )
    parser.add_argument(
        "--start-a-new-log", action="store_true", help="do it; without this, only say what would be"
    )


def _add_skip(commands: _Subparsers, environment: Mapping[str, str]) -> None:
    log = commands.add_parser("log", help="repair the log", description="Commands that change the log itself.")
    parser = _command(
        log.add_subparsers(title="commands", metavar="COMMAND", required=True),
        "skip",
        "leave out an entry at which every node has halted",
        "Only if all nodes that the cluster counts on are up, none has applied the entry, and at least one has "
        "halted at it. What the "
        "entry "
        "held is lost for good; the reason goes into the log.",
        lambda given: SkipEntry(
            _nodes(given.node, environment), _index(given.index), _reason(given.reason), _seconds(given.wait)
        ),
    )
    parser.add_argument("index", metavar="INDEX", help="index of the entry, as the halted nodes say it")
    parser.add_argument("--reason", required=True, metavar="TEXT", help=f"why, up to {REASON_MAX} characters")
    parser.add_argument(
        "--wait",
        default=str(SKIP_WAIT_S),
        metavar="SECONDS",
        help=f"how long to wait until all members have gone past it ({SKIP_WAIT_S:g})",
    )
    _add_node(parser)


def _add_status(commands: _Subparsers, environment: Mapping[str, str]) -> None:
    parser = _command(
        commands,
        "status",
        "what each node says of itself",
        "Asks a node who is there or counted on, and each of those how it stands; one line for each.",
        lambda given: ShowStatus(_nodes(given.node, environment), given.json),
    )
    parser.add_argument("--json", action="store_true", help="everything that they say, as JSON")
    _add_node(parser)


def _add_replicas(commands: _Subparsers, environment: Mapping[str, str]) -> None:
    replicas = commands.add_parser(
        "replicas", help="the nodes that trimming counts on", description="The nodes that trimming counts on."
    )
    parser = _command(
        replicas.add_subparsers(title="commands", metavar="COMMAND", required=True),
        "remove",
        "stop counting on a node that does not come back",
        "The log is no longer kept for it. If it comes back all the same, it takes a snapshot.",
        lambda given: RemoveReplica(_nodes(given.node, environment), given.node_id),
    )
    parser.add_argument("node_id", metavar="ID", help="the node's id, as `status` shows it")
    _add_node(parser)


def _add_request(commands: _Subparsers, environment: Mapping[str, str]) -> None:
    parser = _command(
        commands,
        "request",
        "what became of a request",
        "Whether the write with this Idempotency-Key was committed. With --settle an open one is cancelled, so "
        "that the answer is final.",
        lambda given: AskRequest(_nodes(given.node, environment), given.request_id, given.settle),
    )
    parser.add_argument("request_id", metavar="ID", help="the request's Idempotency-Key")
    parser.add_argument("--settle", action="store_true", help="cancel it if it is not committed")
    _add_node(parser)


# --- what several of them take --------------------------------------------------------------------------------


def _command(
    commands: _Subparsers, name: str, text: str, description: str, make: Callable[[argparse.Namespace], Command]
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=description)
    parser.set_defaults(make=make)
    return parser


def _add_node(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--node",
        action="append",
        default=[],
        metavar="URL[,...]",
        help=f"nodes to ask; the first that works is enough; may be repeated ({NODE})",
    )


def _add_place(parser: argparse.ArgumentParser, environment: Mapping[str, str]) -> None:
    parser.add_argument(
        "--zk", default=environment.get("KVLOG_ZK", ""), metavar="HOST:PORT[,...]", help="ZooKeeper's servers"
    )
    parser.add_argument(
        "--root",
        default=environment.get("KVLOG_ROOT", "/kvlog"),
        metavar="PATH",
        help="znode of the cluster (/kvlog)",
    )


def _place(given: argparse.Namespace) -> tuple[str, str]:
    check_zookeeper(given.zk, given.root)
    return given.zk, given.root


def _nodes(given: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """URLs of nodes, without a slash at the end; a bare HOST:PORT is taken for one."""
    texts = given or [environment.get("KVLOG_NODE") or NODE]
    urls = []
    for text in (part.strip() for item in texts for part in item.split(",")):
        url = (text if "://" in text else f"http://{text}").rstrip("/")
        if not _NODE.fullmatch(url):
            raise SettingsError(f"--node {text!r}: must be the URL of a node, for example {NODE}")
        urls.append(url)
    return tuple(dict.fromkeys(urls))


def _data_dirs(given: Sequence[str]) -> tuple[Path, ...]:
    """Directories, each once."""
    texts = [text for text in given if text]
    if not texts:
        raise SettingsError("--data-dir is missing: say where the node has its data, as --data-dir data/5000")
    paths = [Path(text) for text in texts]
    if len({path.resolve() for path in paths}) < len(paths):
        raise SettingsError("--data-dir: one of the directories is given twice")
    return tuple(paths)


def _index(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,15}", text):
        raise SettingsError(f"INDEX {text!r}: must be the index of an entry, a whole number from 0")
    return int(text)


def _reason(text: str) -> str:
    if not text.strip() or len(text) > REASON_MAX:
        raise SettingsError(f"--reason: must have 1 to {REASON_MAX} characters, this one has {len(text)}")
    return text.strip()


def _seconds(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", text):
        raise SettingsError(f"--wait {text!r}: must be a number of seconds, up to 9999")
    return float(text)
