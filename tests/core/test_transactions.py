"""Transactions: which branch is carried out, what is told of it, and what counts as the same request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlog.core.commands import (
    Compare,
    DeleteKey,
    Failure,
    Relation,
    SetKey,
    Target,
    Txn,
    fingerprint,
)
from kvlog.core.entry import ENTRY_BYTES_MAX, HEADER_BYTES_MAX, Delete, Put, Request
from kvlog.core.evaluate import bytes_in_entry, check_command, evaluate
from kvlog.core.machine import Record, outcome_of
from kvlog.errors import InvalidInput
from kvlog.memory_store import MemoryTransaction

ABSENT = Compare("k", Target.REVISION, Relation.EQUAL, 0)
THERE = MemoryTransaction({"k": Record(b"old", create=3, revision=5, version=2)}, {})
EMPTY = MemoryTransaction({}, {})


def test_the_first_branch_is_carried_out_if_the_conditions_hold():
    """And nothing says that anything has failed."""
    found = evaluate(EMPTY, Txn((SetKey("k", b"v"),), (ABSENT,), (DeleteKey("k"),)), 7)

    assert found == Request(effects=(Put("k", "v", create=7, version=1),))


def test_the_other_branch_is_carried_out_if_they_do_not_and_it_is_told():
    """Its effects, and that the conditions did not hold."""
    found = evaluate(THERE, Txn((SetKey("k", b"v"),), (ABSENT,), (DeleteKey("k"),)), 7)

    assert found == Request(failed=Failure.CONDITION.value, effects=(Delete("k"),))
    outcome = outcome_of(found, 7, 9)
    assert (outcome.failed, outcome.changes) == ("condition", 1)


def test_without_another_branch_conditions_that_do_not_hold_change_nothing():
    """The request has its revision nevertheless."""
    assert evaluate(THERE, Txn((SetKey("k", b"v"),), (ABSENT,)), 7) == Request(failed="condition")


def test_a_lease_that_is_not_there_leaves_all_of_a_branch_undone():
    """Whichever branch it is."""
    missing = (SetKey("a", b"1"), SetKey("b", b"2", lease=12_000))

    assert evaluate(EMPTY, Txn(missing, (ABSENT,)), 7) == Request(failed="lease")
    assert evaluate(THERE, Txn((), (ABSENT,), missing), 7) == Request(failed="lease")


def test_what_was_asked_tells_a_repetition_where_the_operations_follow_from_the_state():
    """The operations of a rollback differ from try to try, and it is the same request."""
    first, second = Txn((SetKey("k", b"1"),), asked="roll k back to 3"), Txn(asked="roll k back to 3")

    assert fingerprint(first) == fingerprint(second)
    assert fingerprint(first) != fingerprint(Txn((SetKey("k", b"1"),), asked="roll k back to 4"))
    assert fingerprint(first) != fingerprint(Txn((SetKey("k", b"1"),)))


@given(
    st.lists(
        st.builds(
            SetKey,
            key=st.text(min_size=1, max_size=120),
            value=st.binary(max_size=40_000),
            content_type=st.sampled_from(["", "text/plain"]),
            ttl_ms=st.sampled_from([0, 5_000]),
        )
        | st.builds(DeleteKey, key=st.text(min_size=1, max_size=120)),
        min_size=1,
        max_size=40,
        unique_by=lambda operation: operation.key,
    )
)
def test_operations_that_fit_one_by_one_fit_together(operations):
    """As long as what they take at most adds up to no more than an entry has room for."""
    room = ENTRY_BYTES_MAX - HEADER_BYTES_MAX - 1_024
    taken, total = [], 0
    for operation in operations:
        total += bytes_in_entry(operation)
        if total > room:
            break
        taken.append(operation)

    check_command(Txn(tuple(taken)), request_id_bytes=128)


def test_a_transaction_that_no_entry_can_hold_is_refused():
    """413, before it is queued."""
    with pytest.raises(InvalidInput) as refusal:
        check_command(Txn(tuple(SetKey(str(n), bytes([1]) * 100_000) for n in range(3))), request_id_bytes=128)

    assert refusal.value.status == 413
