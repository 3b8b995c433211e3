"""The exceptions of kvlog, all in one place.

    KvlogError
    ├── InvalidInput          what a client sent cannot be accepted (4xx); nothing was changed
    ├── SettingsError         the node's settings make no sense; exit code 2
    ├── InUse                 address, data directory or id belong to a running node; exit code 3
    ├── WrongLog              this store and this ZooKeeper do not belong together; exit code 4
    ├── BadEntry              an entry of the log cannot be applied by anybody: every replica halts there
    ├── StoreFailure          the local store failed to read or write; exit code 5
    │   └── StoreDamaged      what is on the disk is not what was written; exit code 5
    ├── Stuck                 a part of the process has stopped working; exit code 6
    ├── BadSnapshot           a copy of a store is incomplete, damaged, or of another format
    ├── CommandFailed         a command of the command line cannot do what it was asked to
    │   └── NotMet            because something is not so: no such key, or a condition that does not hold
    ├── HistoryTrimmed        the past that was asked for is not kept any more
    ├── GapsInHistory         the store has missed entries, so that its past cannot be told
    ├── Behind                a read waited in vain for what it needs to be applied here
    ├── TooStale              the bound that a read has set cannot be shown to hold
    ├── TooManyKeys           more keys are concerned than one request may change or compare
    ├── SlowReader            a watcher does not take its events as fast as they happen
    ├── WatchEnded            a watch cannot go on at this node; says from where it can be begun again
    ├── Unavailable           the other side did not answer in time, or not at all
    ├── TooBusy               this node has more to do than it can: nothing of the request was done
    ├── ClientGone            whoever has asked is not there any more
    ├── FailpointHit          a failpoint was armed to raise; ends a node as a bug would, exit code 70
    └── InvariantViolation    a bug in kvlog itself; exit code 70

This is the lowest module: it imports nothing of kvlog.
"""


class KvlogError(Exception):
    """Base of everything that kvlog raises on purpose; ``exit_code`` is a node's when it ends by it."""

    exit_code = 1


class InvalidInput(KvlogError):
    """A request that cannot be accepted as it is.

    ``status`` is the HTTP status that says so, ``problem`` the name of the problem where the status does not tell
    it (see api.problems).
    """

    def __init__(self, reason: str, *, status: int = 400, problem: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.problem = problem


class SettingsError(KvlogError):
    """Settings that are missing, malformed or contradict each other."""

    exit_code = 2


class InUse(KvlogError):
    """Another running node has this address, data directory or id."""

    exit_code = 3


class WrongLog(KvlogError):
    """The store belongs to another log than the one in ZooKeeper, or is ahead of it."""

    exit_code = 4


class StoreFailure(KvlogError):
    """The local store could not be read or written. The node exits: reopening decides what survived."""

    exit_code = 5


class Stuck(KvlogError):
    """A part of the process has stopped working; start it again. Nothing is wrong with the store."""

    exit_code = 6


class StoreDamaged(StoreFailure):
    """The local store holds something else than what was written to it: the next start puts it aside."""

    def __init__(self, directory: object, reason: str) -> None:
        super().__init__(f"the store in {directory} is damaged: {reason}")
        self.reason = reason


class BadSnapshot(KvlogError):
    """A copy of a store that cannot be used: cut off, damaged, or of a format that is not known."""


class CommandFailed(KvlogError):
    """A command refuses, or could not finish; says why, what that means, and what to do next."""


class NotMet(CommandFailed):
    """What a command asks about is not there, or what it was to depend on is not so."""


class Unavailable(KvlogError):
    """A peer or ZooKeeper gave no answer in the time that was set for it."""


class HistoryTrimmed(KvlogError):
    """The state at a revision cannot be told any more; ``floor`` is the lowest one for which it can."""

    def __init__(self, revision: int, floor: int) -> None:
        super().__init__(f"revision {revision} is not kept any more, {floor} is the lowest that can still be told")
        self.floor = floor


class GapsInHistory(KvlogError):
    """The store has missed entries: nothing certain can be said of its past, nor that it is up to date."""

    def __init__(self, missed: int) -> None:
        super().__init__(
            f"this node's store is stale: it has missed {missed} entries; ask another node, or POST "
            "/v1/admin/catchup here first"
        )


class Behind(KvlogError):
    """What a read has to wait for has not been applied here in time. Another node may have it."""


class TooStale(KvlogError):
    """A read's bound on age or lag cannot be shown to hold here and now."""


class TooManyKeys(KvlogError):
    """More keys are concerned than one request may change, or one answer compare."""


class SlowReader(KvlogError):
    """A watcher does not take its events as fast as they happen."""


class WatchEnded(KvlogError):
    """A watch cannot go on at this node, for the ``reason``.

    All that it wanted of the revisions below ``resume`` was given out: a new one begins there.
    """

    def __init__(self, reason: KvlogError, resume: int) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.resume = resume


class TooBusy(KvlogError):
    """This node has more to do than it can: nothing of the request was done, and nothing will be."""


class ClientGone(KvlogError):
    """The client has closed its connection before its request, or the answer to it, was whole."""


class BadEntry(KvlogError):
    """An entry that cannot be applied: damaged, of an unknown format, or not chained to the one before."""

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(f"log entry {index}: {reason}")
        self.index = index
        self.reason = reason


class InvariantViolation(KvlogError):
    """Something that cannot happen has happened: a bug. Nothing may be concluded from the state after it."""

    exit_code = 70


class FailpointHit(KvlogError):
    """A failpoint was armed to raise (see failpoints). It stands for the exception that nobody expects."""

    exit_code = InvariantViolation.exit_code


def invariant(condition: object, message: str) -> None:
    """Raise InvariantViolation unless the condition holds; unlike ``assert`` it survives ``python -O``."""
    if not condition:
        raise InvariantViolation(message)
