"""What the client raises: one tree, in which the first question is what became of what was asked.

    ClientError
    ├── BadRequest            it makes no sense as it is (also a ValueError); nothing was changed
    │   ├── TooLarge          it is more than one transaction can hold
    │   └── TooManyKeys       it would change more keys at once than may be
    ├── ConditionFailed       if_revision, or what a rollback asks for, does not hold; nothing was changed
    ├── NoSuchLease           the lease has expired, was revoked, or never was
    ├── Cancelled             the write's id was settled as cancelled: it never happens
    ├── HistoryTrimmed        the revision is further back than the node remembers
    ├── TooStale              no node can show that its state is as recent as was asked for
    ├── Refused               it did not happen; it may be asked for again
    │   └── NoNodes           no node could do it within the time
    ├── Unknown               a write that has happened or not; ``Client.settle`` finds out
    ├── NotRead               a transaction is committed, but what a get of it wanted could not be read
    ├── BatchStopped          a batch ended on the way; says how much of it is committed
    ├── LockHeld              somebody else has held the lock all the time (also a TimeoutError)
    ├── LeaseLost             the lease that was kept alive is gone
    ├── BadAnswer             what has answered is no kvlog of this version
    └── Closed                the client, or the watch, has been closed

The text of each says what happened, what it means, and what to do.
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of everything that the client raises.

    Attributes:
        status: the HTTP status of the answer that says so; 0 if it is the client itself that does.
        node: the address of the node that answered, or "".
    """

    def __init__(self, reason: str, *, status: int = 0, node: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.node = node


class BadRequest(ClientError, ValueError):
    """What was asked for makes no sense as it is: asking again is of no use."""


class TooLarge(BadRequest):
    """It is more than a value, an entry of the log, or a request may hold."""


class TooManyKeys(BadRequest):
    """It would change more keys in one transaction than may be changed: take a narrower prefix."""


class ConditionFailed(ClientError):
    """The condition of a write does not hold. Nothing was changed.

    Attributes:
        revision: the revision of the state in which it was found so. The client's reads see at least that one
            from here on, so that "read, change, write if unchanged" can go round at once.
    """

    def __init__(self, reason: str, *, revision: int = 0, status: int = 0, node: str = "") -> None:
        super().__init__(reason, status=status, node=node)
        self.revision = revision


class NoSuchLease(ClientError):
    """The lease has expired, was revoked, or never was. Its keys are gone with it."""


class Cancelled(ClientError):
    """The write's id was settled as cancelled before the write arrived: under this id it never happens."""


class HistoryTrimmed(ClientError):
    """What was asked for is further back than the node remembers.

    Attributes:
        floor: the oldest revision whose state is known; a watch can begin at ``floor + 1``. Of the log: the index
            of the first entry that is there.
    """

    def __init__(self, reason: str, *, floor: int = 0, status: int = 0, node: str = "") -> None:
        super().__init__(reason, status=status, node=node)
        self.floor = floor


class TooStale(ClientError):
    """Each node was asked; none can show that its state is as recent as ``max_stale_ms`` or ``max_lag`` want."""


class Refused(ClientError):
    """It did not happen, and will not: it is safe to ask for it again, later."""


class NoNodes(Refused):
    """No node could do it within the time; says what each of them said, or why it could not be reached."""


class Unknown(ClientError):
    """A write was sent, and what became of it could not be learned within the time.

    ``Client.settle(error.request_id)`` finds out, for good: either it is committed, and where, or it is cancelled
    and never happens. The same write may also be sent again with ``request_id=error.request_id``.

    Attributes:
        request_id: the id under which the nodes know the write.
    """

    def __init__(self, reason: str, *, request_id: str, status: int = 0, node: str = "") -> None:
        super().__init__(reason, status=status, node=node)
        self.request_id = request_id


class NotRead(ClientError):
    """A transaction is committed, but what one of its gets wanted to know could not be read."""


class BatchStopped(ClientError):
    """A batch ended before its end; the ``__cause__`` says why, as it would for a single write.

    Attributes:
        done: so many operations, from the first one on, are committed. Of those behind them none is, unless the
            cause is Unknown: then some may be.
    """

    def __init__(self, reason: str, *, done: int) -> None:
        super().__init__(reason)
        self.done = done


class LockHeld(ClientError, TimeoutError):
    """Somebody else has held the lock for as long as was to be waited."""


class LeaseLost(ClientError):
    """A lease that was kept alive is gone, or may be: its time was over before a keep-alive was answered."""


class BadAnswer(ClientError):
    """What has answered is no node of kvlog, or one of another version."""


class Closed(ClientError):
    """The client has been closed: it asks nothing any more."""
