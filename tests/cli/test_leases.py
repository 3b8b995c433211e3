"""lease and lock on a real cluster: keys that go away, and commands that run one at a time."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvlog.processes import wait_until

from .conftest import NodeStandIn, Reply, Users, kvlog, started


def test_keys_go_away_with_their_lease(users: Users):
    """Granted by id, revoked with its keys; then there is no such lease."""
    lease = users.done("lease", "grant", 60).strip()
    users.done("put", users.key("a"), "v", "--lease", lease)
    users.client.put(users.key("b"), "v", lease=int(lease))
    attached = users.json("get", users.key("a"))["lease"]
    revoked = users.json("lease", "revoke", lease)
    again = users.run("lease", "revoke", lease)

    assert (attached, revoked["lease"], revoked["deleted"]) == (int(lease), int(lease), 2)
    assert users.client.count(users.prefix) == 0
    assert (again.code, f"there is no lease {lease}: it has expired" in again.err) == (3, True)


def test_a_key_cannot_hang_on_a_lease_that_is_not_there(users: Users):
    """Nothing is written, and the exit code is 3."""
    result = users.run("put", users.key("k"), "v", "--lease", 10**15)

    assert (result.code, result.out, "nothing was written" in result.err) == (3, "", True)


def test_a_lease_is_kept_alive_once(users: Users):
    """It says for how long; of one that is not there it says that, with exit code 3."""
    lease = users.client.lease(60).id
    said = users.done("lease", "keep-alive", lease, "--once")
    unknown = users.run("lease", "keep-alive", 10**15)

    assert said == f"lease {lease} lives for another 60 s\n"
    assert (unknown.code, unknown.out) == (3, "")


def test_a_lease_is_kept_alive_until_somebody_ends_it(make_nodes: Callable[..., list[NodeStandIn]]):
    """Again and again; Ctrl-C is the ordinary end. A node's trouble is said, and it goes on as long as it may."""
    (node,) = make_nodes("n1")
    answers: list[Reply] = [(200, {"lease": 7, "ttl": 2.0})] * 3
    answers[1:1] = [(503, {"detail": "there is no leader"})]
    route = "POST /v1/leases/7/keep-alive"
    node.routes[route] = lambda _: answers.pop(0) if len(answers) > 1 else answers[0]
    with started("lease", "keep-alive", 7, "--json", "--node", node.url) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)

    assert (process.returncode, lines) == (0, ['{"lease":7,"ttl":2.0}\n'] * 5)
    assert err.count("there is no leader") == 1
    assert "trying again" in err


def test_keeping_a_lease_alive_ends_with_it(make_nodes: Callable[..., list[NodeStandIn]]):
    """No node answers until its time is over: exit code 1; it is not there any more: 3."""
    (node,) = make_nodes("n1")
    first: list[Reply] = [(200, {"lease": 7, "ttl": 0.3})] * 2
    route = "POST /v1/leases/7/keep-alive"
    node.routes[route] = lambda _: first.pop() if first else (503, {"detail": "there is no leader"})
    unheard = kvlog("lease", "keep-alive", 7, "--node", node.url)
    first = [(200, {"lease": 7, "ttl": 0.3})] * 2
    node.routes[route] = lambda _: first.pop() if first else (404, {"type": "kvlog:no-such-lease"})
    gone = kvlog("lease", "keep-alive", 7, "--node", node.url)

    assert (unheard.code, unheard.out) == (1, "")
    assert "answers 503: there is no leader" in unheard.err
    assert (gone.code, "there is no lease 7" in gone.err) == (3, True)


# --- locks ----------------------------------------------------------------------------------------------------


def test_a_command_runs_with_the_lock_and_its_token(users: Users):
    """Its output is all there is, its exit code is ours, and the lock is free afterwards."""
    script = "import os; print('token', os.environ['KVLOG_LOCK_TOKEN']); raise SystemExit(7)"
    first = users.run("lock", users.key("l"), sys.executable, "-c", script)
    second = users.run("lock", users.key("l"), "--", sys.executable, "-c", script)
    tokens = [int(one.out.split()[1]) for one in (first, second)]

    assert [(one.code, one.err) for one in (first, second)] == [(7, "")] * 2
    assert 0 < tokens[0] < tokens[1]
    assert users.value("l") is None


def test_a_lock_that_is_held_is_waited_for(users: Users, tmp_path: Path):
    """Not at all with --wait 0, which ends with exit code 3; without it, until it is free."""
    there, go = tmp_path / "there", tmp_path / "go"
    hold = f"touch {there}; until [ -e {go} ]; do sleep 0.05; done"
    with started("lock", "--node", users.nodes, users.key("l"), "sh", "-c", hold) as holder:
        assert wait_until(there.exists, 20)
        refused = users.run("lock", "--wait", 0, users.key("l"), "echo", "ran")
        with started("lock", "--node", users.nodes, users.key("l"), "echo", "ran") as waiter:
            assert waiter.poll() is None
            go.touch()
            out, err = waiter.communicate(timeout=30)
        assert holder.wait(20) == 0

    assert (refused.code, refused.out, "somebody else has held it" in refused.err) == (3, "", True)
    assert (waiter.returncode, out, err) == (0, "ran\n", "")


def test_a_command_is_told_to_end_when_the_lock_is_lost(users: Users, tmp_path: Path):
    """Somebody has revoked its lease: SIGTERM for the command, exit code 1 and a sentence for us."""
    there, ended = tmp_path / "there", tmp_path / "ended"
    script = f"trap 'touch {ended}; exit 0' TERM; touch {there}; while :; do sleep 0.05; done"
    lock = ("lock", "--ttl", 6, "--node", users.nodes, users.key("l"))
    with started(*lock, "sh", "-c", script) as holder:
        assert wait_until(there.exists, 20)
        item = users.client.get(users.key("l"))
        users.done("lease", "revoke", item and item.lease)
        _, err = holder.communicate(timeout=30)

    assert ended.exists()
    assert holder.returncode == 1
    assert f"the lock {users.key('l')!r} was lost before the command had ended" in err


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_signal_is_the_commands(users: Users, tmp_path: Path, stubborn: bool):
    """SIGTERM is passed on; the lock is given back once the command has ended, by it or in its own way."""
    there = tmp_path / "there"
    trap = "trap 'exit 5' TERM; " if stubborn else ""
    wait = "while :; do sleep 0.05; done" if stubborn else "exec sleep 60"
    with started(
        "lock", "--node", users.nodes, users.key("l"), "sh", "-c", f"{trap}touch {there}; {wait}"
    ) as holder:
        assert wait_until(there.exists, 20)
        holder.send_signal(signal.SIGTERM)
        _, err = holder.communicate(timeout=30)

    assert (holder.returncode, err) == (5 if stubborn else 128 + signal.SIGTERM, "")
    assert users.value("l") is None


def test_a_command_that_is_not_there_takes_no_lock(users: Users):
    """It is looked for before."""
    result = users.run("lock", users.key("l"), "no-such-command")

    assert (result.code, result.out) == (1, "")
    assert "there is no command 'no-such-command' on this machine; the lock was not taken" in result.err
