"""Of the requests with one id, one takes effect; all of them are told the same (W6)."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kvlog.core.commands import Settle, fingerprint, update
from kvlog.core.effects import Append, Reply
from kvlog.core.entry import OWN_ID, LogEntry
from kvlog.core.events import WriteSubmitted
from kvlog.core.values import Ack, Clash, Committed, Refused, Rejected, Settled, Unknown
from kvlog.core.writer import Writer
from tests.core.answers import Landed
from tests.core.test_writer import Bench


class Office(Bench):
    """A writer, and requests with ids."""

    def ask(
        self, token: int, request_id: str, value: str | None = "v", ack: Ack = Ack.LOG, deadline: float = 9.0
    ) -> None:
        """Submit a put of the key ``k``; without a value, ask to settle the id."""
        command = Settle() if value is None else update("k", value)
        assert self.writer.submit(WriteSubmitted(token, command, ack, deadline, request_id=request_id)) == []

    def commit(self) -> list[Reply]:
        """Append what waits, see it in the log, and apply it; returns all answers."""
        append, replies = self.next()
        if append is None:
            return replies
        item = self.land(append)
        replies += self.see(item)
        self.apply(item)
        return replies

    def succeed(self) -> None:
        """Another node takes over, with what its store holds."""
        self.writer = Writer(self.store, instance="i2")
        item = self.land(self.barrier(epoch=self.chain.epoch + 1))
        self.see(item)
        self.apply(item)


@pytest.fixture
def office() -> Office:
    return Office()


def first(token: int, revision: int = 1, index: int = 1) -> Landed:
    """The answer to the request that took effect."""
    return Landed(token, revision, index, {})


def again(token: int, revision: int = 1, index: int = 1) -> Landed:
    """The answer to a repetition of it."""
    return Landed(token, revision, index, {}, repeated=True)


def clashes(replies: Sequence[Reply], token: int, clash: Clash) -> bool:
    """Whether this is the one answer."""
    return [(reply.token, getattr(reply.answer, "clash", None)) for reply in replies] == [(token, clash)]


# --- repetitions ----------------------------------------------------------------------------------------------


def test_a_repetition_in_the_same_entry_is_answered_with_it(office: Office):
    """Both came while another append was under way: one request goes into the log (W6)."""
    office.ask(1, "a")
    office.ask(2, "a")
    append, replies = office.next()
    assert replies == []  # not before the entry is in the log (W2)
    item = office.land(append)

    assert len(item.entry.requests) == 1
    assert [first(1), again(2)] == office.see(item)
    assert office.writer.idle


def test_a_repetition_in_the_same_entry_shares_its_fate(office: Office):
    """An entry that was fenced off refuses both (W3)."""
    office.ask(1, "a")
    office.ask(2, "a")
    append = office.append()
    assert append is not None

    replies = office.writer.fenced(append.batch_id)

    assert [(reply.token, type(reply.answer)) for reply in replies] == [(1, Refused), (2, Refused)]
    assert office.writer.idle


def test_a_repetition_in_a_lost_entry_is_unknown_at_its_deadline(office: Office):
    """Each of the two is answered at its own time, once (W1)."""
    office.ask(1, "a", deadline=2.0)
    office.ask(2, "a", deadline=3.0)
    append = office.append()
    office.writer.lost()

    late = [[reply.token for reply in office.writer.expire(now, {})] for now in (2.0, 3.0, 4.0)]

    assert late == [[1], [2], []]
    assert office.see(office.land(append)) == []


def test_a_repetition_of_what_is_not_applied_yet_is_answered_with_it(office: Office):
    """The store does not know it; what is pending does (W5, W6)."""
    office.ask(1, "a")
    item = office.land(office.append())
    office.see(item)
    office.ask(2, "a")

    assert (None, [again(2)]) == office.next()

    office.apply(item)
    office.ask(3, "a")
    assert (None, [again(3)]) == office.next()


def test_a_repetition_after_a_change_of_leaders_is_answered_with_the_first_result(office: Office):
    """What is remembered is in every store (W6)."""
    office.ask(1, "a")
    office.commit()
    office.succeed()
    office.ask(2, "a")

    assert (None, [again(2)]) == office.next()


def test_a_batch_of_repetitions_appends_nothing(office: Office):
    """The log does not grow, and the writer is free for the next one."""
    office.ask(1, "a")
    office.commit()
    for token in range(2, 6):
        office.ask(token, "a")

    assert (None, [again(token) for token in range(2, 6)]) == office.next()
    assert office.writer.idle


def test_new_requests_between_repetitions_are_appended(office: Office):
    """Repetitions take no place in the entry; revisions go on without a jump."""
    office.ask(1, "a")
    office.commit()
    for token, request_id in ((2, "a"), (3, "b"), (4, "a"), (5, "c"), (6, "b")):
        office.ask(token, request_id)
    append, replies = office.next()
    item = office.land(append)

    assert [again(2), again(4)] == replies
    assert [request.id for request in item.entry.requests] == ["b", "c"]
    assert [first(3, 2, 2), first(5, 3, 2), again(6, 2, 2)] == office.see(item)


def test_a_request_that_was_refused_runs_when_it_comes_again(office: Office):
    """A fenced entry leaves nothing behind by which its requests would be taken for known ones (W3, W6)."""
    office.ask(1, "a")
    append = office.append()
    assert append is not None
    office.writer.fenced(append.batch_id)
    office.ask(2, "a")

    assert office.commit() == [first(2)]


def test_a_lost_request_that_landed_answers_its_repetition(office: Office):
    """The append got no answer; the request comes again once its entry has been read (W4, W6)."""
    office.ask(1, "a")
    append = office.append()
    office.writer.lost()
    office.ask(2, "a")
    assert office.next() == (None, [])
    item = office.land(append)

    assert office.see(item) == [first(1)]
    assert office.next() == (None, [again(2)])


def test_a_lost_request_that_never_landed_runs_when_it_comes_again(office: Office):
    """The next epoch's barrier refuses the first; the second takes effect, once (W3, W6)."""
    office.ask(1, "a")
    office.append()
    office.writer.lost()
    barrier = office.land(office.barrier(epoch=6))
    assert [reply.token for reply in office.see(barrier)] == [1]
    office.apply(barrier)
    office.ask(2, "a")

    assert office.commit() == [first(2, 1, 2)]


def test_a_request_without_an_id_is_never_a_repetition(office: Office):
    """Two equal writes are two writes."""
    office.ask(1, "")
    office.ask(2, "")

    assert office.commit() == [first(1), first(2, 2)]


def test_an_id_that_is_forgotten_runs_again():
    """Behind the window nobody knows it any more; before, everybody does (M7, W6)."""
    office = Office(window=2)
    office.ask(1, "a")
    office.commit()
    office.ask(2, "b")
    office.commit()
    office.ask(3, "a")
    assert office.commit() == [again(3)]
    office.ask(4, "c")
    office.commit()
    office.ask(5, "a")

    assert office.commit() == [first(5, 4, 4)]


# --- other requests with a known id ---------------------------------------------------------------------------


def test_another_request_under_a_known_id_is_rejected(office: Office):
    """Whatever it wanted did not happen: the id belongs to the first one (W6)."""
    office.ask(1, "a")
    office.commit()
    office.ask(2, "a", "other")
    append, replies = office.next()

    assert append is None
    assert clashes(replies, 2, Clash.REUSED)
    assert "the id a belongs to another request" in str(replies[0].answer)


def test_another_request_under_an_id_of_the_same_entry_is_rejected(office: Office):
    """The first of the two goes into the log (W6)."""
    office.ask(1, "a")
    office.ask(2, "a", "other")
    append, replies = office.next()

    assert clashes(replies, 2, Clash.REUSED)
    assert office.see(office.land(append)) == [first(1)]


def test_an_own_id_has_no_fingerprint(office: Office):
    """A node gives its ids to one request each: there is nothing to compare, and nothing to keep."""
    office.ask(1, f"{OWN_ID}i1-1")
    item = office.land(office.append())
    office.see(item)
    office.apply(item)
    office.ask(2, f"{OWN_ID}i1-1", "other")

    assert item.entry.requests[0].fingerprint == ""
    assert office.next() == (None, [again(2)])


def test_a_clients_id_has_its_commands_fingerprint(office: Office):
    """So that every replica can tell a repetition from another request."""
    office.ask(1, "a")
    item = office.land(office.append())

    assert fingerprint(update("k", "v")) == item.entry.requests[0].fingerprint


# --- settling -------------------------------------------------------------------------------------------------


def test_settling_a_committed_request_says_where_it_is(office: Office):
    """Nothing is appended (W6)."""
    office.ask(1, "a")
    office.commit()
    office.ask(2, "a", None)

    assert office.next() == (None, [Reply(2, Settled(cancelled=False, revision=1, index=1))])


def test_settling_an_unknown_request_cancels_it_for_good(office: Office):
    """The cancellation is in the log; what comes later is rejected, also by the next leader (W6)."""
    office.ask(1, "a", None)
    assert office.commit() == [Reply(1, Settled(cancelled=True, revision=1, index=1))]
    office.ask(2, "a")
    assert clashes(office.commit(), 2, Clash.CANCELLED)

    office.succeed()
    office.ask(3, "a")
    office.ask(4, "a", None)
    append, replies = office.next()

    assert append is None
    assert clashes(replies[:1], 3, Clash.CANCELLED)
    assert replies[1:] == [Reply(4, Settled(cancelled=True, revision=1, index=1))]
    assert "request a was cancelled at revision 1" in str(replies[0].answer)
    assert office.store.get("k") is None


def test_settling_a_request_of_the_same_entry_waits_for_that(office: Office):
    """It is committed only once the entry is in the log (W2, W6)."""
    office.ask(1, "a")
    office.ask(2, "a", None)
    append, replies = office.next()
    assert replies == []

    assert office.see(office.land(append)) == [first(1), Reply(2, Settled(False, 1, 1))]


def test_a_request_behind_its_cancellation_in_one_entry_is_rejected(office: Office):
    """The order of arrival decides (W6)."""
    office.ask(1, "a", None)
    office.ask(2, "a")
    append, replies = office.next()

    assert clashes(replies, 2, Clash.CANCELLED)
    assert office.see(office.land(append)) == [Reply(1, Settled(cancelled=True, revision=1, index=1))]


def test_a_cancellation_that_was_refused_cancels_nothing(office: Office):
    """Fenced off, it is in no log: the request may still be committed (W3)."""
    office.ask(1, "a", None)
    append = office.append()
    assert append is not None
    office.writer.fenced(append.batch_id)
    office.ask(2, "a")

    assert office.commit() == [first(2)]


# --- ack=replicas ---------------------------------------------------------------------------------------------


def test_a_repetition_waits_for_the_replicas_as_the_first_one_would(office: Office):
    """Whoever asks for it can read the write on every port afterwards."""
    office.ask(1, "a")
    item = office.land(office.append())
    office.see(item)
    office.ask(2, "a", ack=Ack.REPLICAS)
    assert office.next() == (None, [])

    assert office.writer.acknowledge(0, {}) == []
    assert office.writer.acknowledge(1, {"n2": "applied"}) == [Landed(2, 1, 1, {"n2": "applied"}, repeated=True)]


def test_answers_for_the_replicas_keep_their_order(office: Office):
    """A repetition of an earlier entry comes behind what waits already, and is answered no later than that."""
    office.ask(1, "a", ack=Ack.REPLICAS)
    office.commit()
    office.ask(2, "b", ack=Ack.REPLICAS)
    office.ask(3, "a", ack=Ack.REPLICAS)
    assert office.commit() == []

    tokens = [[reply.token for reply in office.writer.acknowledge(index, {})] for index in (0, 1, 2, 3)]

    assert tokens == [[], [1, 3], [2], []]
    assert office.writer.idle


def test_a_waiting_repetition_is_committed_at_its_deadline(office: Office):
    """Replicas that were waited for in vain do not make it unknown (W1)."""
    office.ask(1, "a")
    office.commit()
    office.ask(2, "a", ack=Ack.REPLICAS, deadline=2.0)
    office.next()

    assert office.writer.expire(2.0, {}) == [again(2)]
    assert office.writer.idle


# --- any order ------------------------------------------------------------------------------------------------


class Requests(RuleBasedStateMachine):
    """Clients with few ids and values, appends with every fate, and a store that applies when it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[int, object] = {}
        self.asked: dict[int, tuple[str, str | None]] = {}
        self.in_log: list[LogEntry] = []
        self.token = 0
        self.append: Append | None = None

    @initialize(window=st.sampled_from([1, 3, 1_000]))
    def start(self, window: int) -> None:
        self.window = window
        self.office = Office(window=window)

    def take(self, replies: Sequence[object]) -> None:
        for reply in replies:
            assert isinstance(reply, Reply)
            assert reply.token not in self.answers, "answered twice (W1)"
            self.answers[reply.token] = reply.answer

    def learn(self, item: LogEntry) -> None:
        self.take(self.office.see(item))
        self.in_log.append(item)

    def apply_all(self) -> None:
        while self.in_log:
            self.office.apply(self.in_log.pop(0))

    @rule(
        name=st.sampled_from(["a", "b", "~c", ""]),
        value=st.sampled_from(["1", "2"]),
        ack=st.sampled_from(list(Ack)),
    )
    def write(self, name: str, value: str, ack: Ack) -> None:
        self.token += 1
        self.asked[self.token] = (name, value)
        self.office.ask(self.token, name, value, ack=ack, deadline=99)

    @rule(name=st.sampled_from(["a", "b", "~c"]))
    def settle(self, name: str) -> None:
        self.token += 1
        self.asked[self.token] = (name, None)
        self.office.ask(self.token, name, None, deadline=99)

    @precondition(lambda self: self.append is None)
    @rule()
    def form(self) -> None:
        self.append, replies = self.office.next()
        self.take(replies)

    @precondition(lambda self: self.append is not None)
    @rule(answered=st.booleans())
    def land(self, answered: bool) -> None:
        if not answered:
            self.office.writer.lost()
        self.learn(self.office.land(self.append))
        self.append = None

    @precondition(lambda self: self.append is not None)
    @rule(lost=st.booleans())
    def fence(self, lost: bool) -> None:
        """It never lands: ZooKeeper says so, or the next epoch's barrier does."""
        assert self.append is not None
        if lost:
            self.office.writer.lost()
        else:
            self.take(self.office.writer.fenced(self.append.batch_id))
        self.append = None
        self.elect()

    @precondition(lambda self: self.append is None)
    @rule()
    def elect(self) -> None:
        """This node leads anew: everything is applied before its barrier (L1)."""
        self.apply_all()
        self.learn(self.office.land(self.office.barrier(epoch=self.office.chain.epoch + 1)))
        self.apply_all()

    @precondition(lambda self: self.in_log)
    @rule()
    def apply(self) -> None:
        self.office.apply(self.in_log.pop(0))

    @rule(index=st.integers(0, 30))
    def acknowledge(self, index: int) -> None:
        self.take(self.office.writer.acknowledge(index, {}))

    @invariant()
    def what_is_said_is_so(self) -> None:
        """Each answer names the one request in the log, and what it was (W2, W6)."""
        if not hasattr(self, "office"):
            return
        there = {
            revision: (item.index, request)
            for item in self.office.chain.entries
            for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision)
        }
        for token, answer in self.answers.items():
            name, value = self.asked[token]
            if isinstance(answer, Committed | Settled):
                index, request = there[answer.revision]
                assert (answer.index, name) == (index, request.id)
                if isinstance(answer, Settled):
                    assert answer.cancelled == request.cancels
                elif not name.startswith("~"):
                    assert [effect.value for effect in request.effects] == [value]  # type: ignore[union-attr]
            else:
                assert isinstance(answer, Refused | Rejected | Unknown)

    @invariant()
    def no_id_is_twice_within_the_window(self) -> None:
        """M7, W6."""
        last: dict[str, int] = {}
        for item in self.office.chain.entries if hasattr(self, "office") else ():
            for revision, request in enumerate(item.entry.requests, start=item.entry.first_revision):
                if request.id:
                    assert revision - last.get(request.id, -self.window) >= self.window
                    last[request.id] = revision

    def teardown(self) -> None:
        """Everything is answered in the end, and the store is what the log says (W1)."""
        if self.append is not None:
            self.fence(lost=True)
        while self.office.writer.queue:
            self.form()
            if self.append is not None:
                self.land(answered=True)
        self.take(self.office.writer.acknowledge(10_000, {}))
        self.apply_all()
        assert set(self.answers) == set(self.asked)
        assert self.office.writer.idle
        assert self.office.store.position() == self.office.chain.position
        super().teardown()


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
