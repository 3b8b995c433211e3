"""The table of roles: complete, strict, and without dead ends."""

import pytest

from kvlog.core.role import TRANSITIONS, Input, Role, next_role
from kvlog.errors import InvariantViolation

LIVING = {Role.OFFLINE, Role.OBSERVER, Role.FOLLOWER, Role.ELECTED, Role.LEADER}
PAIRS = [(role, event) for role in Role for event in Input]


@pytest.mark.parametrize(("role", "event"), PAIRS)
def test_each_input_is_listed_or_a_bug(role: Role, event: Input):
    """An input that the table does not list for a role raises; nothing happens by default."""
    listed = TRANSITIONS[role].get(event)
    if listed is not None:
        assert listed == next_role(role, event)
    else:
        with pytest.raises(InvariantViolation, match=f"{event} cannot happen to a node that is {role}"):
            next_role(role, event)


def reachable(start: Role) -> set[Role]:
    """The roles to which some inputs lead from ``start``."""
    found, ways = {start}, [start]
    while ways:
        for role in TRANSITIONS[ways.pop()].values():
            if role not in found:
                found.add(role)
                ways.append(role)
    return found


def test_a_starting_node_can_come_to_every_role():
    """No role is only written down."""
    assert set(Role) == reachable(Role.OFFLINE)


@pytest.mark.parametrize("role", Role)
def test_every_role_ends_in_stopping(role: Role):
    """SIGTERM stops a node whatever it is, at once."""
    assert next_role(role, Input.STOP) is Role.STOPPING


@pytest.mark.parametrize("role", Role)
def test_the_session_and_the_log_can_fail_in_every_role(role: Role):
    """Connection, disconnection and a bad entry do not ask what the node is."""
    assert {Input.CONNECTED, Input.DISCONNECTED, Input.HALT} <= set(TRANSITIONS[role])


def test_only_an_elected_node_becomes_leader():
    """There is one way to lead: replay, barrier, serve (N2)."""
    ways = [(role, event) for role, event in PAIRS if TRANSITIONS[role].get(event) is Role.LEADER]

    assert ways == [(Role.ELECTED, Input.SERVING)]


@pytest.mark.parametrize("role", sorted(LIVING))
def test_a_lost_connection_ends_every_leadership(role: Role):
    """Without a connection no node is more than offline."""
    assert next_role(role, Input.DISCONNECTED) is Role.OFFLINE


def test_a_halted_node_stops_or_begins_anew():
    """What has met an entry that cannot be applied goes on only once that is skipped, and as an observer (N4)."""
    assert {event for event in Input if TRANSITIONS[Role.HALTED].get(event) not in (None, Role.HALTED)} == {
        Input.RESUMED,
        Input.STOP,
    }
    assert next_role(Role.HALTED, Input.RESUMED) is Role.OBSERVER
    assert [role for role in Role if Input.RESUMED in TRANSITIONS[role]] == [Role.HALTED]


def test_a_stopping_node_does_nothing_else():
    """There is no way back from stopping."""
    assert reachable(Role.STOPPING) == {Role.STOPPING}
