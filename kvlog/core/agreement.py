"""Do the replicas hold the same? Each publishes, with its mark, the digests that it had at some entries.

What a store holds is a function of the log. If two whole stores differ behind the same entry, one of them holds
something that nobody wrote: a bug, or memory that has changed what it was given. Neither its disk nor its
checksums can tell. Invariants (tests cite the numbers):

A1  Digests are compared behind the same entry only (index and hash), of stores without gaps, and only if they are
    computed in the same way.
A2  A store that differs from what a majority of the registered replicas agree on is not used any more, and none
    but such a one. Where no majority agrees, it is said, and nobody ends.
A3  However fast the log grows, the replicas have digests behind the same entries, the checkpoints: no transaction
    of a store goes beyond one. Each publishes the last checkpoint, and two that stay longer (STAYING).
"""

from __future__ import annotations

from collections.abc import Iterator

from kvlog.core.effects import Distrust, Effect, Note
from kvlog.core.machine import DIGEST_FORMAT, Position
from kvlog.core.values import Checkpoint, Holding, Replica

CHECKPOINT_ENTRIES = 256
"""Behind every so many entries there is a checkpoint. Between them, who stands still can be compared as well."""

STAYING = (1, 4, 16)
"""Of every so many checkpoints the last one is published: the more entries there are in a second, the farther they
have to be apart if all marks, which change every few seconds, are to tell of the same one at some time."""

CHECKPOINTS_MAX = 64
"""Checkpoints that a replica remembers of its own: more than are between it and what the others' marks tell of."""


class Agreement:
    """See the module's docstring."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._own: dict[int, Checkpoint] = {}
        self._differing: set[str] = set()

    def applied(self, position: Position) -> None:
        """The store stands there now."""
        if entries_to_checkpoint(position.applied_index) == 1:
            for own in checkpoint(position):
                self._own[own.index] = own
        while len(self._own) > CHECKPOINTS_MAX:
            del self._own[min(self._own)]

    def published(self, durable: Position) -> tuple[Checkpoint, ...]:
        """What the mark of a store says of its contents: behind the last checkpoints, and where it is durable."""
        found = {each.index: each for each in checkpoint(durable)}
        for every in STAYING:
            behind = (index for index in self._own if (index + 1) % (every * CHECKPOINT_ENTRIES) == 0)
            last = max((index for index in behind if index <= durable.applied_index), default=None)
            if last is not None:
                found[last] = self._own[last]
        return tuple(found[index] for index in sorted(found))

    def compare(self, replicas: tuple[Replica, ...], position: Position) -> list[Effect]:
        """Compare with what the others have published (A1); ``position`` is where the store stands."""
        own = self._own | {each.index: each for each in checkpoint(position)}
        votes: dict[Checkpoint, list[str]] = {}
        for replica, theirs in self._published_by_others(replicas):
            mine = own.get(theirs.index)
            if mine is not None and comparable(mine, theirs):
                votes.setdefault(theirs, []).append(replica.node_id)
        differing = {each: names for each, names in votes.items() if each != own[each.index]}
        registered = {replica.node_id for replica in replicas} | {self._node_id}  # soon, if not yet
        for theirs, names in differing.items():
            if len(names) > len(registered) // 2:
                return [Distrust(not_what_others_hold(theirs, own[theirs.index], names))]
        said = {name: theirs for theirs, names in differing.items() for name in names}
        new = [
            Note(differs(name, said[name], own[said[name].index]))
            for name in sorted(said.keys() - self._differing)
        ]
        self._differing -= {name for names in votes.values() for name in names}  # others could not be compared
        self._differing |= said.keys()
        return [*new]

    def _published_by_others(self, replicas: tuple[Replica, ...]) -> Iterator[tuple[Replica, Checkpoint]]:
        for replica in replicas:
            if replica.node_id != self._node_id and replica.holding is Holding.WHOLE:
                for theirs in dict.fromkeys(replica.checkpoints):
                    yield replica, theirs


def entries_to_checkpoint(index: int) -> int:
    """How many entries there are from this one up to that behind which all replicas have a digest (A3)."""
    return CHECKPOINT_ENTRIES - index % CHECKPOINT_ENTRIES


def checkpoint(position: Position) -> tuple[Checkpoint, ...]:
    """What a store holds there, if that can be compared with what others hold (A1)."""
    if position.gaps or position.applied_index < 0:
        return ()
    return (Checkpoint(position.applied_index, position.hash, f"{DIGEST_FORMAT}.{position.digest}"),)


def comparable(one: Checkpoint, other: Checkpoint) -> bool:
    """Whether both would be equal if the stores held the same (A1)."""
    same_way = one.digest.partition(".")[0] == other.digest.partition(".")[0]
    return (one.index, one.hash) == (other.index, other.hash) and same_way


def differs(name: str, theirs: Checkpoint, mine: Checkpoint) -> str:
    """What to say where it cannot be told whose store is wrong, or where it is not this one."""
    return (
        f"the store of {name} holds something else than this one behind entry {theirs.index}: its digest is "
        f"{theirs.digest}, this one's {mine.digest}; one that differs from what a majority holds ends by itself"
    )


def not_what_others_hold(theirs: Checkpoint, mine: Checkpoint, names: list[str]) -> str:
    """Why this store must not be used any more."""
    return (
        f"this store holds something else than those of {' and '.join(names)} behind entry {theirs.index}: its "
        f"digest is {mine.digest}, theirs {theirs.digest}; they are a majority, so this one is wrong (a bug in "
        "kvlog, or memory that fails); it will not be opened again: start this node again, and it is put aside, "
        "and the data comes from the others"
    )
