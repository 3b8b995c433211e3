"""What goes together: who is waited for, and for how long at most."""

import pytest

from kvlog.core.commands import update
from kvlog.core.effects import ConfirmTail, Reply
from kvlog.core.events import Gathered, ReadSubmitted, WriteSubmitted
from kvlog.core.gathering import WAIT_MAX_S, Gathering
from kvlog.core.node import Node
from kvlog.core.values import Ack
from kvlog.runtime import carry_out
from tests.golden import World


def after_a_turn(*, gone: int, took_s: float, waiting: int) -> Gathering:
    """A turn that so many went in is over at the time 10; so many wait by then."""
    gathering = Gathering()
    gathering.gone(gone, 10.0 - took_s)
    gathering.done(waiting, 10.0)
    return gathering


def test_nobody_goes_where_nobody_waits():
    """And nobody has to be woken for it."""
    gathering = Gathering()

    assert not gathering.complete(0, 10.0)
    assert gathering.wake_at is None


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_a_lone_client_never_waits(turns: int):
    """Neither at first nor after its own turns."""
    gathering = Gathering()
    for turn in range(turns):
        assert gathering.complete(1, turn)
        gathering.gone(1, turn)
        gathering.done(0, turn + 0.01)

    assert gathering.complete(1, 100.0)
    assert gathering.wake_at is None


def test_those_who_went_before_are_waited_for_beside_those_who_have_come_meanwhile():
    """Three went, two came meanwhile: the fifth completes the group."""
    gathering = after_a_turn(gone=3, took_s=0.008, waiting=2)

    assert [gathering.complete(waiting, 10.001) for waiting in (2, 3, 4, 5)] == [False, False, False, True]


@pytest.mark.parametrize(
    ("took_s", "limit_s"), [(0.002, 0.002), (0.008, 0.008), (0.020, WAIT_MAX_S), (3.0, WAIT_MAX_S)]
)
def test_a_group_waits_for_as_long_as_a_turn_and_never_longer_than_the_most(took_s: float, limit_s: float):
    """Those who do not come again must not cost the others much. The time counts from the first that waits."""
    gathering = after_a_turn(gone=4, took_s=took_s, waiting=0)

    assert not gathering.complete(1, 11.0)
    assert gathering.wake_at == pytest.approx(11.0 + limit_s)
    assert not gathering.complete(2, 11.0 + limit_s * 0.9)
    assert gathering.wake_at == pytest.approx(11.0 + limit_s), "who comes later does not make it longer"
    assert gathering.complete(2, 11.0 + limit_s * 1.01)


def test_once_they_have_gone_nobody_is_to_be_woken():
    """The next group begins to wait anew."""
    gathering = after_a_turn(gone=4, took_s=0.004, waiting=0)
    assert not gathering.complete(1, 11.0)

    gathering.gone(1, 11.004)

    assert gathering.wake_at is None


def test_if_all_who_waited_are_gone_nobody_is_to_be_woken():
    """Their time was over, say."""
    gathering = after_a_turn(gone=4, took_s=0.004, waiting=0)
    assert not gathering.complete(1, 11.0)

    assert not gathering.complete(0, 11.001)
    assert gathering.wake_at is None


def test_a_client_that_is_left_alone_waits_once_at_most():
    """The others have stopped asking: after its next turn it does not wait for them any more."""
    gathering = after_a_turn(gone=4, took_s=0.004, waiting=0)
    assert not gathering.complete(1, 11.0)
    assert gathering.complete(1, 11.004)
    gathering.gone(1, 11.004)
    gathering.done(0, 11.012)

    assert gathering.complete(1, 11.02)


def test_a_clock_that_stands_still_makes_no_wait():
    """A turn that took no time is no reason to wait for anybody."""
    gathering = after_a_turn(gone=4, took_s=0.0, waiting=0)

    assert gathering.complete(1, 10.0)


# --- the node that gathers ----------------------------------------------------------------------------------


def obeyed(world: World, script: str) -> Node:
    """The node after these commands of a golden script."""
    for command in script.split("; "):
        world.obey(command)
    assert world.node is not None
    return world.node


GROUP_OF_TWO = (
    "given leader n1@5 n2@6; push-answered n2 0; at 10; write 1 a 1; write 2 b 1; write 3 c 1; at 10.01; "
    "appended; applied; push-answered n2 1; at 10.0201; woken; at 10.0301; appended; applied; push-answered n2 2"
)
"""The first write goes alone; the others wait for its client until 10.02, and their turn takes 10 ms."""


def leader_with_a_waiting_write() -> tuple[World, Node]:
    """One of two clients has come again, and waits for the other."""
    world = World()
    node = obeyed(world, f"{GROUP_OF_TWO}; write 4 a 2")
    assert node.wake_at == pytest.approx(10.0401)
    return world, node


def test_a_leader_wants_to_be_woken_when_a_group_has_to_go():
    """And no more once it has gone."""
    world, node = leader_with_a_waiting_write()

    obeyed(world, "at 10.0402; woken")

    assert node.wake_at is None
    assert node.leadership.writer.in_flight is not None


@pytest.mark.parametrize("end", ["candidates n2@6", "suspended", "lost"])
def test_who_leads_no_more_wants_no_waking(end: str):
    """Nothing could go: to be woken would be for nothing."""
    world, node = leader_with_a_waiting_write()

    obeyed(world, end)

    assert node.wake_at is None


def test_a_node_wants_to_be_woken_for_the_earlier_of_its_groups():
    """Reads that share a confirmation wait as writes do, at the same time: each group goes when it has to."""
    world = World()
    reads = "read 11 linearizable=yes; at 10.0302; read 12 linearizable=yes; read 13 linearizable=yes"
    confirmed = "at 10.0401; confirmed asked=10.0301; at 10.0502; woken; at 10.0602; confirmed"
    again = "write 4 a 2; at 10.062; read 14 linearizable=yes"
    node = obeyed(world, f"{GROUP_OF_TWO}; {reads}; {confirmed}; {again}")

    assert node.wake_at == pytest.approx(10.0702)
    obeyed(world, "at 10.0703; woken")
    assert node.leadership.writer.in_flight is not None
    assert node.wake_at == pytest.approx(10.072)
    asked = world.asked.pop(ConfirmTail)
    obeyed(world, "at 10.0721; woken")
    assert node.wake_at is None
    assert world.asked[ConfirmTail] == asked, "it is asked for again"


def test_requests_that_came_together_go_together():
    """One step takes them all: the first one does not go before the others are seen."""
    world = World()
    node = obeyed(world, "given leader n1@5; at 10")
    writes = [WriteSubmitted(token, update(f"k{token}", "v"), Ack.LOG, 15.0) for token in (1, 2, 3)]
    reads = [ReadSubmitted(token, 15.0, linearizable=True) for token in (4, 5)]

    world.step(Gathered((writes[0], reads[0], *writes[1:], reads[1])))
    assert node.leadership.writer.in_flight is not None
    assert len(node.leadership.writer.in_flight.landings) == 3
    world.step(world.do_appended())
    effects = world.step(carry_out(world.store, world.store_work.pop(0)))
    effects += world.step(world.do_confirmed())

    assert sorted(effect.token for effect in effects if isinstance(effect, Reply)) == [4, 5]
