"""A store that holds something else than the log gives, with every checksum in order: the others notice."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from kvlog.core.machine import DIGEST_MODULUS, Record, digest_of
from kvlog.core.role import Role

from .simulator import SimNode, Simulator

NOTICED_S = 3.0
"""At rest: marks come every 0.4 s here, and the others' are read once a second."""

NOTICED_UNDER_LOAD_S = 8.0
"""The checkpoint that stays the longest does so for 128 entries, here some four seconds."""


def up(seed: int, *, size: int = 3) -> Simulator:
    """A cluster without other faults, in which something was written; writes go on."""
    sim = Simulator(seed, size=size)
    sim.strangers = False
    for node in sim.nodes.values():
        node.start("catchup")
    sim.run_until(3.0)
    write_on(sim, 1.0)
    return sim


def write_on(sim: Simulator, seconds: float) -> None:
    """So many more seconds under load: no two replicas ever stand still."""
    end = sim.now + seconds
    while sim.now < end:
        sim.burst()
        sim.run_until(sim.now + 0.03)


def leader(sim: Simulator) -> SimNode:
    return next(node for node in sim.nodes.values() if node.core is not None and node.core.role is Role.LEADER)


def follower(sim: Simulator) -> SimNode:
    return next(node for node in sim.nodes.values() if node is not leader(sim))


def add_a_record(node: SimNode) -> None:
    """What a bug or bad memory could do: a record that nobody wrote, its right hash, and a digest to go with it.

    Nobody overwrites it either: that would put it right again.
    """
    state = node.store.state
    stray = Record(b"nobody wrote this", create=1, revision=1, version=1)
    digest = (int(state.position.digest, 16) + digest_of("stray", stray)) % DIGEST_MODULUS
    position = msgspec.structs.replace(state.position, digest=f"{digest:032x}")
    node.store.state = dataclasses.replace(state, records=state.records | {"stray": stray}, position=position)


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("who", [leader, follower])
def test_a_replica_that_holds_something_else_is_found_under_load(seed: int, who: object):
    """It ends within seconds, it alone, and its store is not used any more (A2, A3)."""
    sim = up(seed)
    node = who(sim)  # type: ignore[operator]
    add_a_record(node)

    write_on(sim, NOTICED_UNDER_LOAD_S)

    assert not node.alive
    assert [line.split(" exited: ")[0] for line in sim.failures] == [node.node_id]
    assert "this store holds something else than those of " in sim.failures[0]


@pytest.mark.parametrize("seed", range(1, 6))
def test_a_replica_that_holds_something_else_is_found_at_rest(seed: int):
    """One write is enough; afterwards all stand at the same entry, if not at a checkpoint (A2)."""
    sim = up(seed)
    sim.run_until(sim.now + 2)
    node = follower(sim)
    add_a_record(node)
    sim.write_to(leader(sim).node_id)

    sim.run_until(sim.now + NOTICED_S)

    assert not node.alive
    assert len(sim.failures) == 1


@pytest.mark.parametrize("seed", range(1, 6))
def test_it_comes_back_with_what_the_others_hold(seed: int):
    """Started again, without the store that was put aside: replayed or copied, and every promise has held."""
    sim = up(seed)
    node = follower(sim)
    before = len(sim.positions)
    add_a_record(node)
    write_on(sim, NOTICED_UNDER_LOAD_S)
    assert not node.alive
    sim.failures.clear()
    sim.positions[before:] = [each for each in sim.positions[before:] if each[0] != node.node_id]

    node.start("catchup")
    write_on(sim, 1.0)
    sim.run_until(sim.now + 2)
    sim.heal()

    sim.check()


def test_where_no_majority_agrees_nobody_ends_and_both_say_so():
    """Two replicas: one of them is wrong, and nothing tells which (A2)."""
    sim = up(1, size=2)
    add_a_record(follower(sim))

    write_on(sim, NOTICED_UNDER_LOAD_S)

    assert sim.failures == []
    assert all(node.alive for node in sim.nodes.values())
    said = [line for line in sim.lines if " holds something else than this one behind entry " in line]
    assert sorted(line.split()[1] for line in said) == ["n1", "n2"]  # once each
