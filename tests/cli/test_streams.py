"""watch and log tail on a real cluster: what comes, as it comes, until somebody ends it."""

import signal
from collections.abc import Callable
from threading import Thread

import pytest

from kvlog.processes import wait_until

from .conftest import NodeStandIn, Users, kvlog, started


def test_a_watch_shows_what_is_written_as_it_comes(users: Users):
    """A line for each change at once; Ctrl-C is its ordinary end."""
    with started("watch", users.prefix, "--node", users.nodes) as process:
        assert process.stdout is not None
        lines: list[str] = []
        reader = Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))  # type: ignore[union-attr]
        reader.start()

        def put() -> bool:
            # A watch shows what comes after it has begun, and does not say when that is.
            users.put("early", "v")
            return bool(lines)

        assert wait_until(put, 20)
        revision = users.put("k", "a\ttab")
        deleted = users.delete("k")
        assert wait_until(lambda: lines[-1:] == [f"{deleted}\tdelete\t{users.key('k')}\n"], 20)
        process.send_signal(signal.SIGINT)
        reader.join(20)

        assert (process.wait(20), process.stderr and process.stderr.read()) == (0, "")
    assert lines[-2] == f"{revision}\tput\t{users.key('k')}\ta\\ttab\n"


def test_a_watch_begins_where_it_is_told(users: Users):
    """And ends after so many events; as JSON each revision is a document."""
    first = users.put("a", "v1")
    users.client.txn().put(users.key("a"), "v2").delete(users.key("b")).commit()
    second = users.put("b", "v3")
    events = users.lines("watch", users.prefix, "--from", first, "--limit", 3)
    one = users.done("watch", "--key", users.key("b"), "--from", first, "--limit", 1)

    assert [event["revision"] for event in events] == [first, first + 1, second]
    assert [change["value"] for event in events for change in event["changes"]] == ["v1", "v2", "v3"]
    assert events[0]["changes"][0]["op"] == "put"
    assert one == f"{second}\tput\t{users.key('b')}\tv3\n"


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_the_log_is_shown_as_it_comes(users: Users, ending: signal.Signals):
    """A line for each entry at once; either signal is its ordinary end."""
    with started("log", "tail", "--node", users.nodes) as process:
        assert process.stdout is not None
        lines: list[str] = []
        reader = Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")))  # type: ignore[union-attr]
        reader.start()

        def put() -> bool:
            users.put("k", "v")
            return bool(lines)

        assert wait_until(put, 20)
        process.send_signal(ending)
        reader.join(20)

        assert (process.wait(20), process.stderr and process.stderr.read()) == (0, "")
    index, time, what, path, after = lines[0].rstrip("\n").split("\t")
    assert (index.isdigit(), time.endswith("Z"), after.endswith("ms")) == (True, True, True)
    assert path in {"append", "push", "watch", "poll", "replay"}
    assert what.startswith("revision ")
    assert what.endswith(f": put {users.key('k')}")


def test_the_log_is_shown_from_the_next_entry_on(make_nodes: Callable[..., list[NodeStandIn]]):
    """Page after page; what cannot be shown of an entry is said in its line."""
    (node,) = make_nodes("n1")
    pages = [{"entries": [], "next": 50}, {"entries": [{"index": 50, "error": "it is damaged"}], "next": 51}]
    node.routes["GET /v1/log"] = lambda _: (200, pages.pop(0))
    result = kvlog("log", "tail", "--limit", 1, "--node", node.url)

    assert (result.code, result.out) == (0, "50\t?\tit is damaged\t?\t?\n")
    assert [line.split("&")[0] for line in node.asked[1:]] == ["GET /v1/log?from=50"] * 2


def test_the_log_is_shown_from_its_beginning(users: Users):
    """Its first entry says who leads; what is in the others is said in short, and in full as JSON."""
    together = users.client.txn()
    for number in range(5):
        together.put(users.key(str(number)), "v")
    together.commit()
    last = users.client.put(users.key("k"), "v").index
    lines = users.done("log", "tail", "--from", 0, "--limit", last + 1).splitlines()
    entries = users.lines("log", "tail", "--from", last, "--limit", 1)

    assert lines[0].split("\t")[2].endswith(" leads")
    assert lines[last - 1].split("\t")[2].endswith(f"put {users.key('2')}, 2 more")
    assert entries[0]["index"] == last
    assert entries[0]["requests"][0]["effects"][0]["key"] == users.key("k")


def test_the_log_goes_on_at_another_node(users: Users):
    """One that is down is passed over."""
    users.put("k", "v")

    assert users.done("log", "tail", "--from", 0, "--limit", 1, "--node", f"127.0.0.1:1,{users.nodes}")
