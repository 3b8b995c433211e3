"""From commands to blind effects: conditions, transactions, leases."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvlog.core.commands import (
    OPERATIONS_MAX,
    AnyOf,
    Command,
    Compare,
    Condition,
    DeleteKey,
    Failure,
    Grant,
    KeepAlive,
    Relation,
    Revoke,
    SetKey,
    Target,
    Txn,
    Unchanged,
)
from kvlog.core.entry import (
    ENTRY_BYTES_MAX,
    HEADER_BYTES_MAX,
    KEY_BYTES_MAX,
    OWN_ID,
    REQUEST_ID_BYTES_MAX,
    VALUE_BYTES_MAX,
    Delete,
    Effect,
    Put,
    encode_request,
)
from kvlog.core.evaluate import REVOKED_KEYS_MAX, check_command, evaluate, lease_key, lease_number
from kvlog.core.machine import Record
from kvlog.errors import InvalidInput
from tests.state import State

LEASE = 3_000


def lease_record(ttl_ms: int, key: str = "") -> Record:
    own = f',"key":"{key}"' if key else ""
    return Record(f'{{"ttl_ms":{ttl_ms}{own}}}'.encode(), 3, 3, 1)


def state(*, own: str = "") -> State:
    """A key of each kind: "a" at revision 5, "leased" under LEASE, which is another key's own if so said."""
    found = State(a=Record(b"1", 2, 5, 4), leased=Record(b"x", 3, 3, 1, "", LEASE))
    found.records[lease_key(LEASE)] = lease_record(10_000, own)
    return found


def done(view: State, command: Command, revision: int = 9) -> tuple[Effect, ...] | str:
    """The effects of a command, or why it has none."""
    request = evaluate(view, command, revision)
    return request.effects or request.failed or ()


def compare(key: str, target: Target, relation: str, number: int) -> Compare:
    return Compare(key, target, Relation(relation), number)


CONDITIONS: list[tuple[Condition, bool]] = [
    (compare("a", Target.REVISION, "=", 5), True),
    (compare("a", Target.REVISION, "=", 4), False),
    (compare("a", Target.REVISION, "!=", 4), True),
    (compare("a", Target.REVISION, "<", 6), True),
    (compare("a", Target.REVISION, "<", 5), False),
    (compare("a", Target.REVISION, ">", 4), True),
    (compare("a", Target.REVISION, "<=", 5), True),
    (compare("a", Target.REVISION, ">=", 6), False),
    (compare("a", Target.CREATE, "=", 2), True),
    (compare("a", Target.VERSION, "=", 4), True),
    (compare("a", Target.LEASE, "=", 0), True),
    (compare("leased", Target.LEASE, "=", LEASE), True),
    (compare("gone", Target.VERSION, "=", 0), True),
    (compare("gone", Target.REVISION, "=", 0), True),
    (compare("gone", Target.CREATE, ">", 0), False),
    (Compare("a", Target.VALUE, Relation.EQUAL, data=b"1"), True),
    (Compare("a", Target.VALUE, Relation.LESS, data=b"2"), True),
    (Compare("a", Target.VALUE, Relation.UNEQUAL, data=b"1"), False),
    (Compare("gone", Target.VALUE, Relation.UNEQUAL, data=b""), True),
    (Compare("gone", Target.VALUE, Relation.EQUAL, data=b""), False),
    (Compare("gone", Target.VALUE, Relation.AT_MOST, data=b""), False),
    (AnyOf("a", (3, 5)), True),
    (AnyOf("a", (3, 4)), False),
    (AnyOf("gone", (0,)), True),
    (Unchanged("a", 5), True),
    (Unchanged("a", 4), False),
    (Unchanged("b", 0), True),
]


@pytest.mark.parametrize(("condition", "holds"), CONDITIONS)
def test_a_condition_decides_which_branch_is_carried_out(condition: Condition, holds: bool):
    """All of the one branch, nothing of the other."""
    view = state()
    view.changed = {"a": 5}
    txn = Txn((SetKey("then", b"1"),), (condition,), (SetKey("else", b"1"),))

    effects = done(view, txn)

    assert isinstance(effects, tuple)
    assert [effect.key for effect in effects] == ["then" if holds else "else"]


def test_one_condition_that_does_not_hold_is_enough():
    """They are joined by "and"."""
    conditions = (AnyOf("a", (5,)), AnyOf("a", (4,)))

    assert done(state(), Txn((DeleteKey("a"),), conditions)) == Failure.CONDITION


def test_a_put_carries_all_that_the_record_will_hold():
    """What it was created at stays, its version goes on; text stays text, and bytes become base64."""
    view = state()

    assert done(view, Txn((SetKey("a", b"2", "text/plain"),))) == (Put("a", "2", 2, 5, "", "text/plain"),)
    assert done(view, Txn((SetKey("new", b"\xff"),))) == (Put("new", "/w==", 9, 1, "base64"),)


def test_deleting_what_is_not_there_does_nothing():
    """And is no failure."""
    assert done(state(), Txn((DeleteKey("gone"),))) == ()


def test_a_time_to_live_makes_a_lease_of_its_own():
    """Each key of a transaction gets one: its record names the key."""
    effects = done(state(), Txn((SetKey("a", b"2", ttl_ms=1_500), SetKey("b", b"2", ttl_ms=1_500))))

    assert effects == (
        Put(lease_key(9_000), '{"ttl_ms":1500,"key":"a"}', 9, 1),
        Put("a", "2", 2, 5, lease=9_000),
        Put(lease_key(9_001), '{"ttl_ms":1500,"key":"b"}', 9, 1),
        Put("b", "2", 9, 1, lease=9_001),
    )


@pytest.mark.parametrize(
    "operation",
    [
        SetKey("leased", b"2"),
        SetKey("leased", b"2", ttl_ms=1_500),
        DeleteKey("leased"),
    ],
)
def test_a_lease_of_its_own_ends_with_the_key_that_leaves_it(operation: SetKey | DeleteKey):
    """Nobody else could ever use it."""
    effects = done(state(own="leased"), Txn((operation,)))

    assert isinstance(effects, tuple)
    assert effects[-1] == Delete(lease_key(LEASE))


@pytest.mark.parametrize("key", ["other", "leased"])
def test_no_key_is_left_behind_on_a_lease_that_exists_for_another_one(key: str):
    """That lease ends as soon as its own key leaves it: what else were attached to it would live for ever."""
    view = state(own="leased")
    attached = evaluate(view, Txn((SetKey(key, b"y", lease=LEASE),)), 9)
    view.apply(attached, 9)
    view.apply(evaluate(view, Txn((SetKey("leased", b"z"),)), 10), 10)

    assert attached.failed == ("lease" if key == "other" else "")
    for each, record in view.records.items():
        assert not record.lease or lease_key(record.lease) in view.records, each


def test_a_key_may_be_put_with_the_lease_that_it_has():
    """Its own one goes on, and is not ended with what was there before."""
    effects = done(state(own="leased"), Txn((SetKey("leased", b"y", lease=LEASE),)))

    assert effects == (Put("leased", "y", 3, 2, lease=LEASE),)


def test_a_granted_lease_stays_when_a_key_leaves_it():
    """It is its holder who ends it."""
    assert done(state(), Txn((SetKey("leased", b"2"),))) == (Put("leased", "2", 3, 2),)


def test_a_key_is_attached_only_to_a_lease_that_lives():
    """One that never was, or has ended, makes the whole transaction fail."""
    attach = Txn((SetKey("b", b"1"), SetKey("c", b"1", lease=LEASE)))
    ended = state()
    ended.records[lease_key(LEASE)] = lease_record(0)

    assert done(state(), attach) == (Put("b", "1", 9, 1), Put("c", "1", 9, 1, lease=LEASE))
    assert done(ended, attach) == Failure.LEASE
    assert done(State(), attach) == Failure.LEASE


def test_a_lease_is_granted_and_kept_alive():
    """Its number is its own; keeping it alive changes nothing in the store."""
    assert done(state(), Grant(5_000)) == (Put(lease_key(9_000), '{"ttl_ms":5000}', 9, 1),)
    assert done(state(), KeepAlive(LEASE)) == ()
    assert done(state(), KeepAlive(4_000)) == Failure.LEASE
    assert lease_number(lease_key(9_000)) == 9_000
    assert lease_number("lease/9") == 0


def test_revoking_a_lease_deletes_its_keys_and_itself():
    """And nothing else."""
    assert done(state(), Revoke(LEASE)) == (Delete("leased"), Delete(lease_key(LEASE)))
    assert done(state(), Revoke(4_000)) == Failure.LEASE


def test_a_lease_with_many_keys_ends_in_several_requests():
    """It takes no new keys and no keep-alives from the first one on, and is gone with the last one."""
    view = state()
    for number in range(REVOKED_KEYS_MAX + 100):
        view.records[f"key{number}"] = Record(b"", 4, 4, 1, "", LEASE)
    first = evaluate(view, Revoke(LEASE), 9)
    view.apply(first, 9)

    assert len(first.effects) == REVOKED_KEYS_MAX + 1
    assert done(view, KeepAlive(LEASE)) == Failure.LEASE
    assert done(view, Txn((SetKey("late", b"", lease=LEASE),))) == Failure.LEASE

    view.apply(evaluate(view, Revoke(LEASE), 10), 10)

    assert list(view.records) == ["a"]


def test_long_keys_of_a_lease_are_deleted_a_few_at_a_time():
    """The request stays well below what an entry can hold."""
    view = state()
    for number in range(REVOKED_KEYS_MAX):
        view.records["\x01" * (KEY_BYTES_MAX - 3) + f"{number:03}"] = Record(b"", 4, 4, 1, "", LEASE)

    assert len(encode_request(evaluate(view, Revoke(LEASE), 9))) < ENTRY_BYTES_MAX // 2


TEXT = st.text(min_size=1, max_size=60)
VALUES = st.one_of(st.binary(max_size=400), st.text(max_size=300).map(str.encode))
OPERATIONS = st.one_of(
    st.builds(SetKey, TEXT, VALUES, TEXT, st.just(0), st.sampled_from([0, 1_000])),
    st.builds(DeleteKey, TEXT),
)


@settings(deadline=None)
@given(
    st.lists(OPERATIONS, max_size=OPERATIONS_MAX, unique_by=lambda operation: operation.key), st.integers(1, 900)
)
def test_what_is_let_in_fits_into_an_entry(operations: list[SetKey | DeleteKey], times: int):
    """Whatever the state is: here, every key has a lease of its own to give up."""
    large = [msgspec.structs.replace(each, key=f"{each.key}{n}") for n in range(times) for each in operations]
    txn = Txn(tuple(large[:OPERATIONS_MAX]))
    try:
        check_command(txn, request_id_bytes=REQUEST_ID_BYTES_MAX)
    except InvalidInput:
        return
    view = State()
    for number, operation in enumerate(txn.then):
        view.records[operation.key] = Record(b"", 2**53, 2**53, 2**53, "", 2**53 + number)
        view.records[lease_key(2**53 + number)] = Record(
            msgspec.json.encode({"ttl_ms": 1, "key": operation.key}), 1, 1, 1
        )

    request = evaluate(view, txn, 2**53, request_id="x" * REQUEST_ID_BYTES_MAX, check="0" * 32)

    assert len(encode_request(request)) <= ENTRY_BYTES_MAX - HEADER_BYTES_MAX


@pytest.mark.parametrize("met", [True, False])
def test_a_branch_that_just_fits_fits(*, met: bool):
    """To the byte: deletions of keys with leases of their own take all the room that is reckoned for them."""

    def txn(*keys: str) -> Txn:
        operations = tuple(map(DeleteKey, keys))
        return Txn(operations) if met else Txn((), (compare("k", Target.REVISION, "=", 1),), operations)

    def fits(*keys: str) -> bool:
        try:
            check_command(txn(*keys), request_id_bytes=REQUEST_ID_BYTES_MAX)
        except InvalidInput:
            return False
        return True

    keys = [f"{n:03d}" + "\x01" * (KEY_BYTES_MAX - 3) for n in range(166)]
    while fits(*keys, more := f"{len(keys)}" + "x" * 100):
        keys.append(more)
    keys.pop()
    keys.append(max(("y" * size for size in range(1, KEY_BYTES_MAX) if fits(*keys, "y" * size)), key=len))
    view = State()
    for lease, key in enumerate(keys, start=1):
        view.records[key] = Record(b"", 1, 1, 1, "", lease)
        view.records[lease_key(lease)] = Record(msgspec.json.encode({"ttl_ms": 1, "key": key}), 1, 1, 1)
    longest_id = OWN_ID + "x" * REQUEST_ID_BYTES_MAX

    request = evaluate(view, txn(*keys), 9, request_id=longest_id, check="0" * 32)

    assert len(request.effects) == 2 * len(keys)
    assert len(encode_request(request)) + 1 <= ENTRY_BYTES_MAX - HEADER_BYTES_MAX  # and the comma behind it


@pytest.mark.parametrize(
    ("operation", "fits"),
    [
        (SetKey("k", b"v" * VALUE_BYTES_MAX), True),
        (SetKey("k", b"\xff" * VALUE_BYTES_MAX), True),
        (SetKey("k", b"\x01" * VALUE_BYTES_MAX), False),
        (SetKey("\x01" * KEY_BYTES_MAX, b"v" * VALUE_BYTES_MAX, ttl_ms=1_000), True),
    ],
)
def test_the_largest_values_fit_unless_json_makes_them_larger(operation: SetKey, fits: bool):
    """Bytes that are not UTF-8 take a third more, control characters six times as much."""
    try:
        check_command(Txn((operation,)), request_id_bytes=REQUEST_ID_BYTES_MAX)
        assert fits
    except InvalidInput:
        assert not fits
