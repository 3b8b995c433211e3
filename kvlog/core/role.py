"""The roles of a node and every way from one to another.

All that moves a node between roles is in TRANSITIONS; an input that is not listed for a role is a bug.

    offline ──connected──▶ observer ──enrolled──▶ follower ──lowest──▶ elected ──serving──▶ leader
       ▲                      ▲                      │                    │ ▲                 │
       │                      └──────resigned────────┴────────────────────┘ └─────unsure──────┘
       └──disconnected── (from each of them)        halt ──▶ halted ──resumed──▶ observer
                                                    stop ──▶ stopping

offline     ZooKeeper is not connected; reads are answered from the store, with their age
observer    connected, but not standing for election: still recovering, or stale
follower    has a candidate znode that is not the lowest
elected     has the lowest candidate znode; replays to the tail, then writes its barrier; serves no writes
leader      its barrier is applied: everything that was ever acknowledged is known here
halted      the log holds an entry that cannot be applied; reads only, until an operator decides
stopping    shutting down, leads no more
"""

from __future__ import annotations

from enum import StrEnum

from kvlog.errors import InvariantViolation


class Role(StrEnum):
    """What a node is."""

    OFFLINE = "offline"
    OBSERVER = "observer"
    FOLLOWER = "follower"
    ELECTED = "elected"
    LEADER = "leader"
    HALTED = "halted"
    STOPPING = "stopping"


class Input(StrEnum):
    """What changes a node's role."""

    CONNECTED = "connected"  # ZooKeeper is connected, with a session that lives
    DISCONNECTED = "disconnected"  # the connection is gone; whether the session lives is not known
    ENROLLED = "enrolled"  # the own candidate znode has been seen in the list
    LOWEST = "lowest"  # ... as the lowest one
    SERVING = "serving"  # everything up to the confirmed tail and the own barrier is applied
    UNSURE = "unsure"  # an append got no answer
    RESIGNED = "resigned"  # the own candidate znode is gone, or given up
    HALT = "halt"
    RESUMED = "resumed"  # the entry that could not be applied has been skipped
    STOP = "stop"


_R, _I = Role, Input

TRANSITIONS: dict[Role, dict[Input, Role]] = {
    Role.OFFLINE: {
        _I.CONNECTED: _R.OBSERVER,
        _I.DISCONNECTED: _R.OFFLINE,
        _I.HALT: _R.HALTED,
        _I.STOP: _R.STOPPING,
    },
    Role.OBSERVER: {
        _I.CONNECTED: _R.OBSERVER,
        _I.DISCONNECTED: _R.OFFLINE,
        _I.ENROLLED: _R.FOLLOWER,
        _I.HALT: _R.HALTED,
        _I.STOP: _R.STOPPING,
    },
    Role.FOLLOWER: {
        _I.CONNECTED: _R.OBSERVER,
        _I.DISCONNECTED: _R.OFFLINE,
        _I.LOWEST: _R.ELECTED,
        _I.RESIGNED: _R.OBSERVER,
        _I.HALT: _R.HALTED,
        _I.STOP: _R.STOPPING,
    },
    Role.ELECTED: {
        _I.CONNECTED: _R.OBSERVER,
        _I.DISCONNECTED: _R.OFFLINE,
        _I.SERVING: _R.LEADER,
        _I.UNSURE: _R.ELECTED,
        _I.RESIGNED: _R.OBSERVER,
        _I.HALT: _R.HALTED,
        _I.STOP: _R.STOPPING,
    },
    Role.LEADER: {
        _I.CONNECTED: _R.OBSERVER,
        _I.DISCONNECTED: _R.OFFLINE,
        _I.UNSURE: _R.ELECTED,
        _I.RESIGNED: _R.OBSERVER,
        _I.HALT: _R.HALTED,
        _I.STOP: _R.STOPPING,
    },
    Role.HALTED: {
        _I.RESUMED: _R.OBSERVER,
        _I.CONNECTED: _R.HALTED,
        _I.DISCONNECTED: _R.HALTED,
        _I.HALT: _R.HALTED,
        _I.STOP: _R.STOPPING,
    },
    Role.STOPPING: {
        _I.CONNECTED: _R.STOPPING,
        _I.DISCONNECTED: _R.STOPPING,
        _I.HALT: _R.STOPPING,
        _I.STOP: _R.STOPPING,
    },
}


def next_role(role: Role, event: Input) -> Role:
    """The role after ``event``.

    Raises:
        InvariantViolation: the event cannot happen in this role.
    """
    try:
        return TRANSITIONS[role][event]
    except KeyError:
        raise InvariantViolation(f"{event} cannot happen to a node that is {role}") from None
