"""When leases end: by the leader's clock alone, and never too soon (E1, E2)."""

import pytest

from kvlog.core import events as ev
from kvlog.core.commands import Grant
from kvlog.core.effects import Append
from kvlog.core.entry import Delete, Entry, Put, Request, decode_entry
from kvlog.core.evaluate import evaluate, first_lease, lease_key
from kvlog.core.leases import ENDED_MAX, RETRY_S, Leases
from kvlog.memory_store import MemoryStore
from tests.golden import World


def entry(*effects: Put | Delete) -> Entry:
    """An entry with one request."""
    return Entry(2, 1, "b", "", 1, 0, (Request(effects=effects),))


def grant(lease: int, ttl_ms: int) -> Put:
    return Put(lease_key(lease), f'{{"ttl_ms":{ttl_ms}}}', 1, 1)


@pytest.fixture
def leases() -> Leases:
    return Leases()


def test_a_lease_is_due_when_its_time_has_passed(leases: Leases):
    """Not before, and once only until a second try is due (E1)."""
    leases.seen(entry(grant(7000, 1_500)), 10.0)

    assert leases.due(11.4) == []
    assert leases.due(11.5) == [7000]
    assert leases.due(11.6) == []
    assert leases.due(11.5 + RETRY_S) == [7000]


def test_a_keep_alive_gives_the_whole_time_again(leases: Leases):
    """From when the leader hears of it (E1)."""
    leases.seen(entry(grant(7000, 1_500)), 10.0)
    leases.renew(7000, 11.4)

    assert leases.due(12.8) == []
    assert leases.due(12.9) == [7000]


def test_a_keep_alive_of_nothing_makes_nothing(leases: Leases):
    """A lease that the leader does not know cannot be prolonged."""
    leases.renew(7000, 1.0)

    assert len(leases) == 0
    assert leases.due(99.0) == []


def test_a_lease_that_has_ended_is_not_due_any_more(leases: Leases):
    """Its record is deleted."""
    leases.seen(entry(grant(7000, 1_500)), 10.0)
    leases.seen(entry(Delete(lease_key(7000))), 10.5)

    assert leases.due(99.0) == []
    assert leases.remaining_ms(7000, 10.6) is None


def test_a_lease_whose_keys_were_too_many_is_due_at_once(leases: Leases):
    """Its record says that it has ended, and the rest of its keys is still to be deleted."""
    leases.seen(entry(grant(7000, 60_000)), 10.0)
    leases.seen(entry(grant(7000, 0)), 10.5)

    assert leases.due(10.5) == [7000]


def test_at_a_change_of_leader_the_whole_time_begins_anew(leases: Leases):
    """What was left is known to nobody (E1); what was granted since is known better."""
    leases.clear()
    leases.seen(entry(grant(8000, 5_000)), 20.0)
    leases.listed(((7000, 1_000), (8000, 5_000)), 21.0)

    assert leases.due(21.9) == []
    assert leases.due(22.0) == [7000]
    assert leases.remaining_ms(8000, 22.0) == 3_000


def ended_by(world: World, time: float) -> list[str]:
    """The keys that are deleted by what the node appends at this time."""
    world.obey(f"at {time}")
    assert world.node is not None
    appended = [effect for effect in world.step(ev.Tick()) if isinstance(effect, Append)]
    entries = [decode_entry(append.index, append.data).entry for append in appended]
    return [effect.key for each in entries for request in each.requests for effect in request.effects]


@pytest.mark.parametrize("interrupted", [False, True])
def test_who_leads_again_gives_every_lease_its_whole_time(interrupted: bool):
    """E1: while it did not lead, another leader may have heard of keep-alives, and confirmed them."""
    world, lease = World(), first_lease(1)
    world.log.barrier("n2", 104)
    world.log.request(evaluate(MemoryStore(), Grant(1_000), 1))
    for line in ("at 10", "given leader n1@5 n2@6", f"leases {lease}:1000", "at 10.9"):
        world.obey(line)
    for line in ("suspended", "connected", "tail", f"leases {lease}:1000") if interrupted else ():
        world.obey(line)
    assert world.node is not None
    assert world.node.role == "leader"

    assert ended_by(world, 10.99) == []
    assert ended_by(world, 11.5) == ([] if interrupted else [lease_key(lease)])
    assert ended_by(world, 11.95) == ([lease_key(lease)] if interrupted else [])


def test_many_leases_end_a_few_at_a_time(leases: Leases):
    """So that they leave room for other writes; the rest follows at once."""
    leases.listed(tuple((number, 1_000) for number in range(1, 3 * ENDED_MAX)), 0.0)

    first, second, third = leases.due(5.0), leases.due(5.0), leases.due(5.0)

    assert [len(first), len(second), len(third)] == [ENDED_MAX, ENDED_MAX, ENDED_MAX - 1]
    assert len({*first, *second, *third}) == 3 * ENDED_MAX - 1


def test_what_keep_alives_leave_behind_is_bounded(leases: Leases):
    """A lease that is kept alive for ever takes no more room than any other."""
    leases.listed(((1, 1_000),), 0.0)
    for moment in range(10_000):
        leases.renew(1, float(moment))

    assert len(leases._queue) < 10 * ENDED_MAX


def test_what_is_left_is_never_less_than_nothing(leases: Leases):
    """A lease that is overdue has nothing left."""
    leases.listed(((1, 1_000),), 0.0)

    assert leases.remaining_ms(1, 0.25) == 750
    assert leases.remaining_ms(1, 99.0) == 0
