"""Leases and locks of both clients over real sockets: kept alive, lost, waited for, given back."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from kvlog.client import BadRequest, LeaseLost, LockHeld, NoNodes, NoSuchLease, Unknown
from kvlog.processes import wait_until

from .scripted_node import CUT, HANG, Asked, Reply, ScriptedNode, committed, problem

MakeClient = Callable[..., Any]
MakeNode = Callable[..., ScriptedNode]

WAIT_S = 10.0


class Leases:
    """A node that grants leases and lets locks be taken; a test may put another answer in the place of any.

    Attributes:
        instead: what to answer next to requests with this method and the path's beginning.
        held: the locks' keys that are there.
    """

    def __init__(self, make_node: MakeNode) -> None:
        self.instead: dict[str, list[Reply]] = {}
        self.held: set[str] = set()
        self.revision = 100
        self.node = make_node(self.answer)

    def answer(self, asked: Asked) -> Reply:
        for name, replies in self.instead.items():
            if f"{asked.method} {asked.path}".startswith(name) and replies:
                return replies.pop(0) if len(replies) > 1 else replies[0]
        self.revision += 1
        match asked.method, asked.path.split("/")[2:]:
            case "POST", ["leases"]:
                return committed(self.revision, lease=self.revision, ttl=json.loads(asked.body)["ttl"])
            case "POST", ["leases", lease, "keep-alive"]:
                return Reply(200, {"lease": int(lease), "ttl": 1.0})
            case "DELETE", ["leases", lease]:
                self.held.clear()
                return committed(self.revision, lease=int(lease), deleted=1)
            case "PUT", ["kv", *key]:
                if "/".join(key) in self.held:
                    return problem(412, "condition-failed", revision=self.revision)
                self.held.add("/".join(key))
                return committed(self.revision)
        raise AssertionError(asked)

    def asked(self, name: str) -> list[Asked]:
        return [one for one in self.node.asked if f"{one.method} {one.path}".startswith(name)]


@pytest.fixture
def leases(make_node: MakeNode) -> Leases:
    return Leases(make_node)


def poll_reply(revision: int, *events: dict[str, Any]) -> Reply:
    """What a long poll brings."""
    return Reply(200, {"revision": revision, "events": list(events), "next": revision + 1})


def deletion(revision: int, key: str) -> dict[str, Any]:
    return {"revision": revision, "index": 1, "time_ms": 1, "changes": [{"op": "delete", "key": key}]}


# --- leases ---------------------------------------------------------------------------------------------------


def test_a_lease_is_kept_alive_every_third_of_its_time(make_client: MakeClient, leases: Leases):
    """As long as the `with` goes on; it is revoked in the end, and not kept alive any more."""
    client = make_client(leases.node)

    with client.lease(1.0) as lease:
        assert wait_until(lambda: len(leases.asked("POST /v1/leases/")) >= 4, WAIT_S)
        assert lease.held
    at = [one.at for one in leases.asked("POST /v1/leases/")]
    assert all(0.25 < later - before < 0.6 for before, later in pairwise(at))
    assert [one.method for one in leases.node.asked][-1] == "DELETE"
    assert not lease.held
    assert not lease.lost.is_set()


def test_a_lease_that_is_not_kept_alive_ends_by_the_clock(make_client: MakeClient, leases: Leases):
    """Of itself, it asks nothing; one keep-alive gives it its whole time again."""
    client = make_client(leases.node)
    lease = client.lease(1.0)

    assert 0.5 < lease.remaining <= 1.0
    time.sleep(0.6)
    lease.keep_alive()
    assert lease.remaining > 0.6
    assert wait_until(lambda: not lease.held, 1.1)
    assert len(leases.asked("POST /v1/leases/")) == 1


def test_a_lease_that_the_nodes_do_not_know_is_lost_at_once(make_client: MakeClient, leases: Leases):
    """Its holder is told by `lost`, and again at the end of the `with`; nothing is left to revoke."""
    client = make_client(leases.node)
    leases.instead["POST /v1/leases/"] = [problem(404, "no-such-lease")]

    with pytest.raises(LeaseLost, match="it is no-such-lease"), client.lease(1.0) as lease:  # noqa: PT012
        assert wait_until(lease.lost.is_set, 0.7)
        assert not lease.held
        assert "it is no-such-lease" in lease.reason
    assert leases.asked("DELETE") == []


def test_a_lease_is_lost_when_its_time_is_over_without_an_answer(make_client: MakeClient, leases: Leases):
    """Counted from when the last keep-alive that was answered was sent; not a moment later."""
    client = make_client(leases.node, timeout=10)

    with pytest.raises(LeaseLost, match="no keep-alive was answered"), client.lease(1.0) as lease:  # noqa: PT012
        asked = leases.node.wait_for(2)
        leases.instead["POST /v1/leases/"] = [HANG]
        ends_at = asked[-1].at + 1.0
        assert wait_until(lambda: not lease.held, WAIT_S)
        assert time.monotonic() <= ends_at + 0.1
        assert wait_until(lease.lost.is_set, 0.3)


def test_a_keep_alive_that_fails_at_once_is_not_repeated_without_a_pause(make_client: MakeClient, leases: Leases):
    """A few times within the lease's time, and then it is lost."""
    client = make_client(leases.node)
    leases.instead["POST /v1/leases/"] = [problem(400, "bad-request")]

    with pytest.raises(LeaseLost, match="it is bad-request"), client.lease(1.0) as lease:
        assert wait_until(lease.lost.is_set, WAIT_S)
    assert 2 <= len(leases.asked("POST /v1/leases/")) <= 10


def test_a_lease_outlives_a_node(make_client: MakeClient, make_node: MakeNode, leases: Leases):
    """A keep-alive that fails is sent to the next one."""
    first = make_node(leases.answer)
    client = make_client(first, leases.node)

    with client.lease(1.0) as lease:
        first.wait_for(2)
        first.close()
        assert wait_until(lambda: len(leases.asked("POST /v1/leases/")) >= 4, WAIT_S)
        assert lease.held


def test_an_error_in_the_body_is_the_one_that_is_raised(make_client: MakeClient, leases: Leases):
    """What went wrong with the lease besides is noted on it."""
    client = make_client(leases.node, timeout=0.3)
    leases.instead["DELETE"] = [CUT]

    with pytest.raises(RuntimeError, match="mine") as caught, client.lease(1.0):
        raise RuntimeError("mine")
    assert any("revoke of lease" in note for note in caught.value.__notes__)


def test_a_lease_that_cannot_be_revoked_says_so(make_client: MakeClient, leases: Leases):
    """It ends by itself."""
    client = make_client(leases.node, timeout=0.3)
    leases.instead["DELETE"] = [CUT]

    with pytest.raises(Unknown), client.lease(1.0):
        pass


def test_a_closed_client_keeps_no_lease_alive(make_client: MakeClient, leases: Leases):
    """It ends by itself; that is no loss which anybody has to be told of."""
    client = make_client(leases.node)
    lease = client.lease(1.0)
    lease.start()
    leases.node.wait_for(2)
    client.close()

    asked = len(leases.node.asked)
    assert wait_until(lambda: not lease.held, 1.5)
    assert len(leases.node.asked) == asked
    assert not lease.lost.is_set()


# --- locks ----------------------------------------------------------------------------------------------------


def test_a_lock_is_a_key_on_a_lease(make_client: MakeClient, leases: Leases):
    """Taken if it is not there; the token is the revision at which it was; given back by revoking the lease."""
    client = make_client(leases.node)
    lock = client.lock("locks/a", ttl=2)
    assert (lock.held, lock.token) == (False, 0)

    with lock:
        assert lock.held
        (put,) = leases.asked("PUT")
        assert lock.token == leases.revision
        assert put.headers["if-none-match"] == "*"
        assert int(put.query["lease"]) == lock.lease.id
        with pytest.raises(BadRequest, match="cannot be taken twice"):
            lock.acquire()
    assert (lock.held, lock.token) == (False, 0)
    assert leases.asked("DELETE")[0].path == f"/v1/leases/{put.query['lease']}"
    with pytest.raises(BadRequest, match="not held"):
        lock.release()


def test_a_lock_that_is_held_is_waited_for_without_polling(make_client: MakeClient, leases: Leases):
    """By a watch of its key, from behind the revision at which it was held; what does not free it is passed by."""
    client = make_client(leases.node)
    leases.held.add("locks/a")
    put = {"revision": 110, "index": 1, "time_ms": 1, "changes": [{"op": "put", "key": "locks/a"}]}
    leases.instead["GET /v1/watch"] = [poll_reply(110, put), poll_reply(120, deletion(120, "locks/a"))]

    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(client.lock("locks/a", wait=5).acquire)
        assert wait_until(lambda: len(leases.asked("GET")) == 2, WAIT_S)
        leases.held.clear()
        token = taking.result(WAIT_S)

    assert token == leases.revision
    polls = leases.asked("GET")
    assert [int(poll.query["from"]) for poll in polls[:2]] == [103, 111]
    assert {poll.query["key"] for poll in polls} == {"locks/a"}


def test_a_lock_that_stays_held_is_given_up(make_client: MakeClient, leases: Leases):
    """When the time for waiting is over, at once if there is none; the lease is given back."""
    client = make_client(leases.node)
    leases.held.add("locks/a")

    def nothing(asked: Asked) -> Reply:
        if asked.path != "/v1/watch":
            return leases.answer(asked)
        time.sleep(float(asked.query["wait"]))
        return poll_reply(leases.revision)

    leases.node.script = nothing
    for wait in (0, 0.5):
        leases.held.add("locks/a")
        began = time.monotonic()
        with pytest.raises(LockHeld) as caught:
            client.lock("locks/a", wait=wait).acquire()
        assert wait <= time.monotonic() - began < wait + 0.4
        assert isinstance(caught.value, TimeoutError)
        assert leases.node.asked[-1].method == "DELETE"


def test_a_lock_whose_put_got_no_answer_is_settled(make_client: MakeClient, leases: Leases):
    """Committed: it is held, at that revision. Cancelled: it is asked for anew."""
    client = make_client(leases.node, timeout=0.4)
    answers = {"id": "x", "revision": 150, "index": 1}
    leases.instead["PUT"] = [CUT]
    leases.instead["DELETE /v1/requests/"] = [Reply(200, answers | {"outcome": "committed"})]

    with client.lock("locks/a", ttl=5) as lock:
        assert (lock.token, lock.held) == (150, True)
    (settled, *_) = leases.asked("DELETE /v1/requests/")
    assert settled.path.removeprefix("/v1/requests/") == leases.asked("PUT")[0].headers["idempotency-key"]

    leases.instead["DELETE /v1/requests/"] = [Reply(200, answers | {"outcome": "cancelled"})]
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(client.lock("locks/b", ttl=5).acquire)
        assert wait_until(lambda: len(leases.asked("DELETE /v1/requests/")) == 2, WAIT_S)
        del leases.instead["PUT"]
        assert taking.result(WAIT_S) == leases.revision


def test_a_lock_whose_lease_ends_while_it_waits_takes_another_one(make_client: MakeClient, leases: Leases):
    """Its put says that there is no such lease: the next one has a lease that lives."""
    client = make_client(leases.node)
    leases.instead["PUT"] = [problem(404, "no-such-lease"), committed(200)]

    with client.lock("locks/a", ttl=5) as lock:
        assert lock.token == 200
    first, second = leases.asked("PUT")
    assert first.query["lease"] != second.query["lease"]


def test_a_lock_is_not_held_when_its_time_is_over(make_client: MakeClient, leases: Leases):
    """Its holder learns it by its own clock, and again when it gives it back."""
    client = make_client(leases.node)
    leases.instead["POST /v1/leases/"] = [HANG]
    lock = client.lock("locks/a", ttl=1)
    lock.acquire()

    assert lock.held
    assert wait_until(lambda: not lock.held, 1.1)
    with pytest.raises(LeaseLost):
        lock.release()


def test_a_lock_that_cannot_be_asked_for_says_so(make_client: MakeClient, leases: Leases):
    """No lease, or no answer while it waits: the error is that of the call, and what it has is given back."""
    client = make_client(leases.node, timeout=0.3)
    leases.instead["POST /v1/leases"] = [problem(503, "refused", outcome="refused")]
    with pytest.raises(Exception, match="it is refused"):
        client.lock("locks/a").acquire()

    del leases.instead["POST /v1/leases"]
    leases.instead["PUT"] = [problem(400, "bad-request")]
    with pytest.raises(BadRequest):
        client.lock("locks/a").acquire()
    assert leases.node.asked[-1].method == "DELETE"

    leases.node.close()
    with pytest.raises(NoNodes):
        client.lock("locks/a").acquire()


def test_the_nodes_word_counts_when_a_lease_is_revoked(make_client: MakeClient, leases: Leases):
    """One that has ended before is no success: revoke says so."""
    client = make_client(leases.node)
    lease = client.lease(5)
    leases.instead["DELETE"] = [problem(404, "no-such-lease")]

    with pytest.raises(NoSuchLease):
        lease.revoke()
    with pytest.raises(LeaseLost), client.lease(5):
        pass
