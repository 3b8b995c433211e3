"""The Python client: ``from kvlog import Client``, or ``AsyncClient`` for asyncio.

What the nodes answer is read in one place for both (reads, writes, judging), and so is the policy of asking again
(attempts, steps). None of that does I/O; caller and aio_caller do.
"""

from kvlog.client.aio import AsyncClient, AsyncTxn
from kvlog.client.aio_lease import AsyncLease, AsyncLock
from kvlog.client.aio_watch import AsyncWatch
from kvlog.client.batches import Progress
from kvlog.client.errors import (
    BadAnswer,
    BadRequest,
    BatchStopped,
    Cancelled,
    ClientError,
    Closed,
    ConditionFailed,
    HistoryTrimmed,
    LeaseLost,
    LockHeld,
    NoNodes,
    NoSuchLease,
    NotRead,
    Refused,
    TooLarge,
    TooManyKeys,
    TooStale,
    Unknown,
)
from kvlog.client.lease import Lease, Lock
from kvlog.client.operations import Delete, Put
from kvlog.client.paging import AsyncPages, Pages
from kvlog.client.results import (
    BatchResult,
    Change,
    Deleted,
    Difference,
    Event,
    Item,
    LoggedEntry,
    OperationResult,
    RolledBack,
    Settled,
    TxnResult,
    Version,
    Written,
)
from kvlog.client.sync import Client, Txn
from kvlog.client.watch import Watch

__all__ = [
    "AsyncClient",
    "AsyncLease",
    "AsyncLock",
    "AsyncPages",
    "AsyncTxn",
    "AsyncWatch",
    "BadAnswer",
    "BadRequest",
    "BatchResult",
    "BatchStopped",
    "Cancelled",
    "Change",
    "Client",
    "ClientError",
    "Closed",
    "ConditionFailed",
    "Delete",
    "Deleted",
    "Difference",
    "Event",
    "HistoryTrimmed",
    "Item",
    "Lease",
    "LeaseLost",
    "Lock",
    "LockHeld",
    "LoggedEntry",
    "NoNodes",
    "NoSuchLease",
    "NotRead",
    "OperationResult",
    "Pages",
    "Progress",
    "Put",
    "Refused",
    "RolledBack",
    "Settled",
    "TooLarge",
    "TooManyKeys",
    "TooStale",
    "Txn",
    "TxnResult",
    "Unknown",
    "Version",
    "Watch",
    "Written",
]
