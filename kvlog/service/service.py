"""One node's operations, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kvlog.config import Settings
from kvlog.core import events as ev
from kvlog.core.status import Status
from kvlog.core.values import Answer, PushAnswer, PushBody, Refused
from kvlog.errors import Unavailable
from kvlog.peers import HttpPeers
from kvlog.ports import Clock, EntryReader, Store
from kvlog.runtime import ANSWER_MARGIN_S, UNDECIDED, Runtime
from kvlog.service.copies import Copies, CopyStore
from kvlog.service.explain import Explanations
from kvlog.service.reads import Reads
from kvlog.service.writes import Writes

CATCHUP_S = 30.0
"""How long a request to heal a stale store waits for it to be done."""

OPERATOR_S = 10.0
"""How long any other request of an operator waits to be done."""

PUSH_S = 2.0

PATIENCE_S = ANSWER_MARGIN_S
"""How much longer than its own time what is answered later may take, before its client is told UNDECIDED."""


__all__ = ["PATIENCE_S", "UNDECIDED", "Service", "make_service"]


@dataclass(frozen=True, slots=True)
class Service:
    """What the API is made of; ``kill`` ends the process like kill -9. Its methods wait on the caller's thread."""

    settings: Settings
    instance: str
    reads: Reads
    writes: Writes
    copies: Copies
    explanations: Explanations
    runtime: Runtime
    kill: Callable[[], None]

    @property
    def missed_entries(self) -> int:
        """How many entries this node's store has missed: more than 0 means stale."""
        return self.runtime.freshness.missed_entries

    @property
    def halted_at(self) -> int | None:
        """The entry at which this node has halted: what is read here is as of the one before."""
        return self.runtime.freshness.halted_at

    def status(self) -> Status:
        """The node's status.

        Raises:
            Unavailable: the node does not decide at the moment.
        """
        return self.runtime.status()

    def propagate(self, body: PushBody) -> PushAnswer | Refused:
        """Take a leader's push."""
        answer = self.runtime.ask(lambda token: ev.PushArrived(token, body), PUSH_S)
        if isinstance(answer, PushAnswer | Refused):
            return answer
        raise Unavailable("this node did not take the push in time")

    def propagate_later(self, body: PushBody, answered: Callable[[Answer], None]) -> None:
        """Take a leader's push; ``answered`` is called once, on any thread. The core bounds those that wait."""
        self.runtime.submit(lambda token: ev.PushArrived(token, body), answered)

    def transfer(self) -> Answer:
        """Let another node lead; waits until one does."""
        return self.runtime.ask(ev.TransferRequested, OPERATOR_S)

    def catch_up(self) -> Answer:
        """Fill in what a stale store has missed; waits until that is done."""
        return self.runtime.ask(ev.CatchupRequested, CATCHUP_S)

    def remove_replica(self, node_id: str) -> Answer:
        """Do not count on a node any more that is gone for good."""
        return self.runtime.ask(lambda token: ev.RemovalRequested(token, node_id), OPERATOR_S)

    def skip(self, index: int, reason: str) -> Answer:
        """Have the entry skipped at which this node has halted; waits until it has gone on."""
        return self.runtime.ask(lambda token: ev.SkipRequested(token, index, reason), OPERATOR_S)


def make_service(
    settings: Settings,
    *,
    instance: str,
    runtime: Runtime,
    store: Store,
    peers: HttpPeers,
    log: EntryReader,
    clock: Clock,
    kill: Callable[[], None],
    copy_store: CopyStore,
) -> Service:
    """The operations of the node that ``runtime`` runs on ``store``."""
    reads = Reads(runtime=runtime, store=store, clock=clock)
    return Service(
        settings,
        instance,
        reads,
        Writes(
            node_id=settings.node_id, instance=instance, runtime=runtime, store=store, peers=peers, clock=clock
        ),
        Copies(node_id=settings.node_id, store=store, clock=clock, copy_store=copy_store),
        Explanations(reads, runtime=runtime, store=store, log=log, clock=clock),
        runtime,
        kill,
    )
