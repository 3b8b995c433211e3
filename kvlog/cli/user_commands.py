"""What users can ask for on the command line: one value class per command. ``user_arguments`` makes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, for how many seconds at most, and whether the result is for programs."""

    nodes: tuple[str, ...]
    timeout_s: float = 5.0
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """How recent what is read has to be, or as of which revision ``at``; by default whatever the node has."""

    linearizable: bool = False
    min_revision: int | None = None
    max_stale_ms: int | None = None
    max_lag: int | None = None
    at: int | None = None


@dataclass(frozen=True, slots=True)
class GetKey:
    """A key's value."""

    target: Target
    key: str
    reading: Reading = Reading()


@dataclass(frozen=True, slots=True)
class PutKey:
    """Give a key a value, ``value`` itself or what is in ``file``.

    Attributes:
        ttl_s: seconds after which the key goes away.
        lease: the lease with which it goes away.
        if_revision: only if the key still stands at this revision; 0: only if it is not there.
        content_type: what the value is; None leaves that to the client.
        ack: what the answer waits for, ``replicas`` or ``log``.
        request_id: the write's Idempotency-Key; None: one of its own.
    """

    target: Target
    key: str
    value: str | None
    file: Path | None = None
    ttl_s: float | None = None
    lease: int | None = None
    if_revision: int | None = None
    content_type: str | None = None
    ack: str = "replicas"
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteKey:
    """Take a key away; for the rest, see PutKey."""

    target: Target
    key: str
    if_revision: int | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ListKeys:
    """The keys that begin with ``prefix``, from ``start`` on, at most ``limit``; or only how many there are."""

    target: Target
    prefix: str = ""
    start: str = ""
    limit: int | None = None
    keys_only: bool = False
    count: bool = False
    at: int | None = None


@dataclass(frozen=True, slots=True)
class WatchKeys:
    """What is written, as it comes: keys with ``prefix``, or one ``key``; ends after ``limit`` events."""

    target: Target
    prefix: str = ""
    key: str | None = None
    start: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class RunTxn:
    """Carry out the transaction that is in ``file``, as JSON."""

    target: Target
    file: Path
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class LoadFile:
    """Carry out the puts and deletes in ``file``, one in each line."""

    target: Target
    file: Path


@dataclass(frozen=True, slots=True)
class ShowHistory:
    """What a key has held, the newest first, at most ``limit`` versions."""

    target: Target
    key: str
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class ShowDiff:
    """The keys that differ between two revisions; ``end`` None: the present one."""

    target: Target
    start: int
    end: int | None = None
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class RollBack:
    """Bring a key, or all that begins with a prefix, back to what it was at ``revision``."""

    target: Target
    revision: int
    key: str | None = None
    prefix: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class ExplainKey:
    """How a key has come to what it is, and how the node knows."""

    target: Target
    key: str


@dataclass(frozen=True, slots=True)
class TailLog:
    """The log's entries as they come, from index ``start`` on; ends after ``limit``."""

    target: Target
    start: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class GrantLease:
    """A new lease of ``ttl_s`` seconds."""

    target: Target
    ttl_s: float


@dataclass(frozen=True, slots=True)
class KeepLeaseAlive:
    """Keep a lease from expiring, once or for as long as the command runs."""

    target: Target
    lease: int
    once: bool = False


@dataclass(frozen=True, slots=True)
class RevokeLease:
    """End a lease, and with it all keys that are attached to it."""

    target: Target
    lease: int


@dataclass(frozen=True, slots=True)
class RunLocked:
    """Run a command while holding a lock; ``wait_s`` None: wait for it as long as it takes."""

    target: Target
    name: str
    command: tuple[str, ...]
    ttl_s: float = 10.0
    wait_s: float | None = None


UserCommand = (
    GetKey
    | PutKey
    | DeleteKey
    | ListKeys
    | WatchKeys
    | RunTxn
    | LoadFile
    | ShowHistory
    | ShowDiff
    | RollBack
    | ExplainKey
    | TailLog
    | GrantLease
    | KeepLeaseAlive
    | RevokeLease
    | RunLocked
)
