"""What can be asked for on the command line: one value class per command. ``arguments`` makes them.

Here are those of the operators; the users' are in ``user_commands``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from kvlog.cli.user_commands import UserCommand

SCRIPT = "kvlog"
"""The command that ``pip install`` makes."""

PROGRAM = SCRIPT if Path(sys.argv[0]).name == SCRIPT else "python -m kvlog"
"""How this command line was called, so that the commands in its sentences can be typed as they stand there."""


@dataclass(frozen=True, slots=True)
class Backup:
    """Download a snapshot into ``file``; ``force``: whatever is there now."""

    nodes: tuple[str, ...]
    file: Path
    force: bool
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Verify:
    """Check a backup from its first byte to its last key."""

    file: Path
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Restore:
    """Begin an empty cluster with a backup."""

    zk: str
    root: str
    file: Path
    data_dir: Path
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Recover:
    """Begin a new log with the best of the stores that are left; without ``start``, only say which."""

    zk: str
    root: str
    data_dirs: tuple[Path, ...]
    start: bool
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class SkipEntry:
    """Have all nodes go past the entry at ``index``, which none of them can apply."""

    nodes: tuple[str, ...]
    index: int
    reason: str
    wait_s: float
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class ShowStatus:
    """What each member says of itself."""

    nodes: tuple[str, ...]
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class RemoveReplica:
    """Stop counting on a node that does not come back."""

    nodes: tuple[str, ...]
    node_id: str
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class AskRequest:
    """What became of a request; ``settle``: if it is not committed, it shall never be."""

    nodes: tuple[str, ...]
    request_id: str
    settle: bool
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class TransferLead:
    """Have another node lead."""

    nodes: tuple[str, ...]
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Have the node fill in what its store has missed."""

    node: str
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class PrintCompletion:
    """The script that makes a shell complete this command line."""

    shell: str


Command = (
    UserCommand
    | Backup
    | Verify
    | Restore
    | Recover
    | SkipEntry
    | ShowStatus
    | RemoveReplica
    | AskRequest
    | TransferLead
    | CatchUp
    | PrintCompletion
)
