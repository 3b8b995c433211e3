"""What the state remembers beyond the records: requests (M7), the log's size (M8), what was skipped."""

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.core.applying import apply_entry
from kvlog.core.commands import Settle, fingerprint, update
from kvlog.core.entry import OWN_ID, Delete, Effect, LogEntry, Put, Request
from kvlog.core.evaluate import evaluate
from kvlog.core.machine import Identity, Position, Remembered, record_after
from kvlog.errors import InvariantViolation
from kvlog.memory_store import MemoryTransaction
from tests.chain import Chain
from tests.core.test_machine import Replica, digest_from_scratch

SCHEDULES = settings(max_examples=120, deadline=None)


def named(name: str, key: str = "k", *, revision: int = 1) -> Request:
    """A request with an id, whose put creates its key."""
    return Request(id=name, fingerprint="f", effects=(Put(key=key, value=name, create=revision, version=1),))


# --- M7: requests ---------------------------------------------------------------------------------------------


def test_a_request_with_an_id_is_remembered_where_it_was_committed():
    """Revision, index and fingerprint: all that a repetition is answered with (M7)."""
    replica = Replica()
    replica.apply(Chain().request(Request(effects=(Delete("x"),)), named("a")))

    assert replica.requests == {"a": Remembered(revision=2, index=0, fingerprint="f", cancelled=False, changes=1)}


def test_a_request_without_an_id_is_not_remembered():
    """Nobody will ask about it (M7)."""
    replica = Replica()
    replica.apply(Chain().put("k", "1"))

    assert replica.requests == {}


def test_a_cancellation_is_remembered_as_one():
    """It has no effects, a revision of its own, and is in the digest (M4, M7)."""
    chain, replica = Chain(), Replica()
    replica.apply(chain.request(Request(id="a", cancels=True)))

    assert replica.requests == {"a": Remembered(1, 0, "", cancelled=True)}
    assert replica.records == {}
    assert replica.position.digest == digest_from_scratch({}, replica.requests) != digest_from_scratch({})


@pytest.mark.parametrize("window", [1, 2, 5])
def test_the_last_revisions_are_remembered_and_no_more(window: int):
    """Exactly the requests of the last ``window`` revisions, whether those have ids or not (M7)."""
    chain, replica = Chain(window=window), Replica.remembering(window)
    for number in range(1, 12):
        replica.apply(chain.request(named(f"r{number}")) if number % 3 else chain.put("other", "x"))
        kept = range(max(1, number - window + 1), number + 1)

        assert {f"r{revision}" for revision in kept if revision % 3} == set(replica.requests)


def test_an_entry_with_more_requests_than_the_window_leaves_the_last_ones():
    """The window counts revisions, however many an entry has (M7)."""
    replica = Replica.remembering(2)
    replica.apply(Chain(window=2).request(*(named(f"r{number}") for number in range(1, 6))))

    assert set(replica.requests) == {"r4", "r5"}


def test_barriers_make_nothing_forgotten():
    """They use up no revision (M7)."""
    chain, replica = Chain(window=1), Replica.remembering(1)
    replica.apply(chain.request(named("a")), *(chain.barrier() for _ in range(3)))

    assert set(replica.requests) == {"a"}


def test_revisions_that_were_left_out_count_as_well():
    """A skip moves the window by the revisions that it leaves out (M7)."""
    chain, replica = Chain(window=3), Replica.remembering(3)
    replica.apply(chain.request(named("a"), named("b")), chain.skip(left_out=2))

    assert (replica.position.revision, set(replica.requests)) == (4, {"b"})


def test_a_store_without_an_identity_has_the_usual_window():
    """Until the log is known, nothing is applied; the default is that of a new log (M7)."""
    assert Position().window == 100_000
    assert Position(identity=Identity("c1", 1, 7)).window == 7


def test_the_digest_sees_what_is_remembered():
    """Stores that would answer a repetition differently are not equal (M4)."""
    logs = []
    for request in (named("a"), named("b"), Request(id="a", fingerprint="g", effects=named("a").effects)):
        chain = Chain()
        chain.request(Request(id=request.id, fingerprint=request.fingerprint, effects=named("x").effects))
        logs.append(chain)

    assert logs[0].records == logs[1].records == logs[2].records
    assert len({chain.position.digest for chain in logs}) == 3


def test_what_is_forgotten_leaves_no_trace_in_the_digest():
    """A log whose requests had ids ends with the digest of one whose requests had none (M4, M7)."""
    one, other = Chain(window=1), Chain(window=1)
    one.request(named("a", "k"))
    other.request(Request(effects=named("a", "k").effects))
    for chain in (one, other):
        chain.put("z", "1")

    assert one.position.digest == other.position.digest


def test_an_id_that_is_remembered_cannot_come_again():
    """Whoever evaluates looks it up; two of them in the log are a bug (W6)."""
    chain = Chain()
    chain.request(named("a"))
    with pytest.raises(InvariantViolation, match="request a is there at"):
        chain.request(named("a"))


def test_evaluating_says_which_request_it_is():
    """The id goes into the log with the fingerprint; an own id has none."""
    view = MemoryTransaction({}, {})
    check = fingerprint(update("k", "v"))

    named_by_client = evaluate(view, update("k", "v"), 1, request_id="a", check=check)
    assert (named_by_client.id, named_by_client.fingerprint) == ("a", check)
    assert evaluate(view, update("k", "v"), 1, request_id=f"{OWN_ID}1").fingerprint == ""
    assert Request(id="a", cancels=True) == evaluate(view, Settle(), 1, request_id="a")


@pytest.mark.parametrize("other", [update("k", "w"), update("l", "v"), update("kv", ""), Settle()])
def test_fingerprints_tell_requests_apart(other: Any):
    """The same request has the same one, another request another one."""
    assert fingerprint(update("k", "v")) == fingerprint(update("k", "v")) != fingerprint(other)


# --- M8: the size of the log ----------------------------------------------------------------------------------


def test_the_log_bytes_are_those_of_all_applied_entries():
    """Barriers and skips too, as they are in ZooKeeper (M8)."""
    chain, replica = Chain(), Replica()
    chain.barrier()
    chain.put("k", "x" * 100)
    chain.skip(left_out=1)
    replica.apply(*chain.entries)

    assert replica.position.log_bytes == sum(len(item.data) for item in chain.entries)


def test_missed_entries_count_once_they_are_filled_in():
    """M8."""
    chain, replica = Chain(), Replica()
    for number in range(4):
        chain.put("k", "x" * number)
    replica.skip_to(1)
    replica.apply(*chain.entries[2:])
    assert replica.position.log_bytes == sum(len(item.data) for item in chain.entries[2:])

    replica.fill(*chain.entries[:2])

    assert replica.position.log_bytes == chain.position.log_bytes


# --- skips ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hashed", [True, False])
def test_a_skip_takes_the_place_of_an_entry(hashed: bool):
    """It is noted, leaves the revisions out, and the chain goes on behind it; the records stay (M1)."""
    chain, replica = Chain(), Replica()
    chain.put("k", "1")
    skip = chain.skip(left_out=3, hashed=hashed)
    after = chain.put("k", "2")
    replica.apply(chain.entries[0], skip)

    assert (replica.position.revision, replica.position.hash) == (4, after.entry.prev_hash)
    assert (replica.position.skipped, set(replica.records)) == ((1,), {"k"})

    replica.apply(after)

    assert replica.records["k"].revision == 5
    assert replica.position.revision == 5


def test_a_skip_keeps_the_leader_of_its_epoch():
    """It is no barrier: who leads is what it was."""
    chain, replica = Chain(), Replica()
    barrier = chain.barrier("n2")
    replica.apply(barrier, chain.skip())

    assert replica.position.leader == barrier.entry.leader


def test_a_missed_skip_is_noted_in_its_order():
    """What was skipped in a gap stands before what was skipped behind it."""
    chain, replica = Chain(), Replica()
    chain.skip()
    chain.put("k", "1")
    chain.skip()
    replica.skip_to(0)
    replica.apply(*chain.entries[1:])
    assert replica.position.skipped == (2,)

    replica.fill(chain.entries[0])

    assert replica.position.skipped == (0, 2)
    assert unkept(chain.position) == unkept(replica.position)


# --- filling gaps ---------------------------------------------------------------------------------------------


def unkept(position: Position) -> Position:
    """A position, whatever is kept of the past."""
    return msgspec.structs.replace(position, history=0)


@dataclasses.dataclass
class Author:
    """Writes a log as leaders do: ids that are remembered are not written again (W6)."""

    chain: Chain

    def write(self, *changes: tuple[str, str | None, str, bool]) -> LogEntry | None:
        """One entry of these changes: key, value (None: delete), id (empty: none), whether to cancel instead."""
        data = MemoryTransaction(dict(self.chain.records), {}, dict(self.chain.requests))
        requests: list[Request] = []
        for key, value, name, cancels in changes:
            if name and (data.request(name) or any(request.id == name for request in requests)):
                continue
            revision = self.chain.position.revision + 1 + len(requests)
            if cancels and name:
                requests.append(Request(id=name, cancels=True))
                continue
            effect: Effect = Delete(key)
            if value is not None:
                request = evaluate(data, update(key, value), revision)
                effect = request.effects[0]
            check = fingerprint(update(key, value or "")) if name and not name.startswith(OWN_ID) else ""
            requests.append(Request(id=name, fingerprint=check, effects=(effect,)))
            self._carry_out(data, requests[-1], revision)
        return self.chain.request(*requests) if requests else None

    @staticmethod
    def _carry_out(data: MemoryTransaction, request: Request, revision: int) -> None:
        for effect in request.effects:
            after = record_after(effect, revision)
            if after is not None:
                data.put(effect.key, after)
            elif data.get(effect.key) is not None:
                data.delete(effect.key)


CHANGE = st.tuples(
    st.sampled_from("abc"),
    st.none() | st.sampled_from(["", "1", "2"]),
    st.sampled_from(["", "", "p", "q", "r", "s", "~t"]),
    st.booleans(),
)
LOGS = st.lists(
    st.one_of(
        st.just("barrier"),
        st.tuples(st.just("skip"), st.integers(0, 3), st.booleans()),
        st.lists(CHANGE, min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=20,
)
WINDOWS = st.sampled_from([1, 2, 3, 5, 100])


def chain_of(events: list[Any], window: int) -> Chain:
    """The log of these barriers, skips and changes."""
    chain = Chain(window=window)
    author = Author(chain)
    chain.barrier("n0")
    for number, event in enumerate(events):
        if event == "barrier":
            chain.barrier(f"n{number}")
        elif isinstance(event, tuple):
            chain.skip(left_out=event[1], hashed=event[2])
        else:
            author.write(*event)
    return chain


@SCHEDULES
@given(LOGS, WINDOWS)
def test_any_log_is_remembered_as_its_last_revisions_say(events: list[Any], window: int):
    """Digest, log bytes, skips and requests follow from the log by their definitions (M4, M7, M8)."""
    chain = chain_of(events, window)
    replica = Replica.remembering(window)
    replica.apply(*chain.entries)
    last = replica.position.revision
    in_window = {
        request.id: (revision, item.index, request.cancels)
        for item in chain.entries
        for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision)
        if request.id and revision > last - window
    }

    assert in_window == {
        name: (found.revision, found.index, found.cancelled) for name, found in replica.requests.items()
    }
    assert replica.position.digest == digest_from_scratch(replica.records, replica.requests)
    assert replica.position.log_bytes == sum(len(item.data) for item in chain.entries)
    assert replica.position.skipped == tuple(item.index for item in chain.entries if item.entry.skip)
    assert chain.position == replica.position


@SCHEDULES
@given(events=LOGS, window=WINDOWS, data=st.data())
def test_a_store_that_missed_entries_ends_like_one_that_missed_nothing(
    events: list[Any], window: int, data: st.DataObject
):
    """Any gaps, filled in any split, between any later entries: all of the state is equal (M1 to M8)."""
    chain, replica = chain_of(events, window), Replica.remembering(window)
    index, count = 0, len(chain.entries)
    while index < count or replica.position.gaps:
        before = replica.position
        ways = (["apply", "miss"] if index < count else []) + (["fill"] if before.gaps else [])
        way = data.draw(st.sampled_from(ways))
        if way == "fill":
            gap = before.gaps[0]
            length = data.draw(st.integers(1, gap.last - gap.first + 1))
            replica.fill(*chain.entries[gap.first : gap.first + length])
        else:
            length = data.draw(st.integers(1, count - index))
            if way == "apply":
                replica.apply(*chain.entries[index : index + length])
            else:
                replica.skip_to(index + length - 1)
            index += length
        after = replica.position
        assert (before.applied_index, before.revision, before.epoch) <= (
            after.applied_index,
            after.revision,
            after.epoch,
        )
        assert before.revision <= after.revision  # M2
        assert after.digest == digest_from_scratch(replica.records, replica.requests)  # M4
        missed = {place for gap in after.gaps for place in range(gap.first, gap.last + 1)}
        held = [item for item in chain.entries[:index] if item.index not in missed]
        assert after.log_bytes == sum(len(item.data) for item in held)  # M8
        assert all(found.revision > after.revision - window for found in replica.requests.values())  # M7

    assert (chain.records, chain.requests) == (replica.records, replica.requests)
    assert unkept(chain.position) == unkept(replica.position)


def test_a_missed_request_is_remembered_as_if_it_had_never_been_missed():
    """A repetition at a healed store is answered with the first result (M7)."""
    chain, replica = Chain(), Replica()
    chain.request(named("a"))
    chain.put("other", "1")
    replica.skip_to(0)
    replica.apply(chain.entries[1])
    assert replica.requests == {}

    replica.fill(chain.entries[0])

    assert (
        replica.requests
        == chain.requests
        == {"a": Remembered(1, 0, "f", cancelled=False, created=True, changes=1)}
    )


def test_a_missed_request_outside_the_window_is_not_remembered():
    """It would have been forgotten by now (M7)."""
    chain, replica = Chain(window=2), Replica.remembering(2)
    chain.request(named("a"))
    chain.write(("x", "1"), ("x", "2"))
    replica.skip_to(0)
    replica.apply(chain.entries[1])
    replica.fill(chain.entries[0])

    assert replica.requests == {}
    assert (
        apply_entry(replica.transaction, replica.position, chain.request(named("a", "z", revision=4))).revision
        == 4
    )


def test_an_id_that_comes_again_behind_missed_entries_is_no_bug():
    """Those made it forgotten, for everybody who has applied them; a stale store has not (M7)."""
    chain, replica = Chain(window=2), Replica.remembering(2)
    chain.request(named("a"))
    chain.write(("x", "1"), ("x", "2"))
    chain.request(named("a", "z", revision=4))
    replica.apply(chain.entries[0])
    replica.skip_to(1)
    replica.apply(chain.entries[2])
    assert (
        replica.requests
        == chain.requests
        == {"a": Remembered(4, 2, "f", cancelled=False, created=True, changes=1)}
    )

    replica.fill(chain.entries[1])

    assert unkept(chain.position) == unkept(replica.position)
