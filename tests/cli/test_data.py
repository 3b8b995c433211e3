"""get, put, delete, list, txn on a real cluster: what users see of keys and values."""

import json
from collections.abc import Callable
from pathlib import Path

from kvlog.client import Put
from kvlog.processes import wait_until

from .conftest import NodeStandIn, Users, kvlog, on_terminal


def test_get_prints_the_value_and_nothing_else(users: Users, tmp_path: Path):
    """Not even a line break: what was put comes out byte for byte."""
    users.done("put", users.key("k"), "two\nlines")
    (tmp_path / "value").write_bytes("with \u00e4 break\n".encode())
    users.done("put", users.key("file"), "--file", tmp_path / "value")

    assert users.done("get", users.key("k")) == "two\nlines"
    assert users.done("get", users.key("file")) == "with \u00e4 break\n"


def test_a_terminal_gets_a_line_break_and_no_bytes_that_are_no_text(users: Users):
    """The sentence says how to get them."""
    users.put("text", "v")
    users.client.put(users.key("bytes"), b"\x1b[31m\xff")
    text = on_terminal("stdout", "get", users.key("text"), "--node", users.nodes)
    data = on_terminal("stdout", "get", users.key("bytes"), "--node", users.nodes)

    assert (text.code, text.out, text.err) == (0, "v\r\n", "")
    assert (data.code, data.out) == (1, "")
    assert "has 6 bytes that are no printable text; `python -m kvlog get KEY > FILE` writes them" in data.err


def test_a_key_that_is_not_there_ends_with_3(users: Users):
    """Nothing is on stdout, in either form."""
    plain = users.run("get", users.key("none"))
    as_json = users.run("get", users.key("none"), "--json")

    assert (plain.code, plain.out, as_json.code, as_json.out) == (3, "", 3, "")
    assert f"there is no key {users.key('none')!r} at revision " in plain.err


def test_an_item_as_json_is_what_the_api_says(users: Users, tmp_path: Path):
    """Text as text, other values in base64."""
    first = users.put("k", "v1")
    second = users.put("k", "v2")
    (tmp_path / "value").write_bytes(b"\xff")
    users.done("put", users.key("bytes"), "--file", tmp_path / "value", "--content-type", "image/x")
    found = users.json("get", users.key("k"))
    data = users.json("get", users.key("bytes"))

    assert found.pop("content_type").startswith("text/plain")
    assert found == {
        "key": users.key("k"),
        "value": "v2",
        "create_revision": first,
        "revision": second,
        "version": 2,
    }
    assert (data["value"], data["encoding"], data["content_type"]) == ("/w==", "base64", "image/x")


def test_the_past_is_read_with_at(users: Users):
    """The value as of a revision, also of a key that is gone."""
    first = users.put("k", "v1")
    users.put("k", "v2")
    users.delete("k")

    assert users.done("get", users.key("k"), "--at", first) == "v1"
    assert users.run("get", users.key("k"), "--linearizable").code == 3
    assert users.run("get", users.key("k"), "--at", first - 1).code == 3


def test_a_put_says_at_which_revision(users: Users):
    """And whether the key is new; as JSON all that is known of the write."""
    created = users.done("put", users.key("k"), "v")
    revision = int(created.split()[-1])
    written = users.json("put", users.key("k"), "v")

    assert created == f"{users.key('k')} created at revision {revision}\n"
    assert (written["key"], written["created"], written["replayed"]) == (users.key("k"), False, False)
    assert written["revision"] > revision
    assert written["leader"] in users.nodes.split(",")


def test_a_condition_that_does_not_hold_ends_with_3(users: Users):
    """Nothing is changed, and nothing is on stdout."""
    key = users.key("k")
    first = users.json("put", key, "v1", "--if-revision", 0)["revision"]
    taken = users.run("put", key, "v2", "--if-revision", 0)
    second = users.json("put", key, "v2", "--if-revision", first)["revision"]
    late = users.run("put", key, "v3", "--if-revision", first)
    kept = users.run("delete", key, "--if-revision", first)

    assert [(one.code, one.out) for one in (taken, late, kept)] == [(3, "")] * 3
    assert users.value("k") == "v2"
    assert users.json("delete", key, "--if-revision", second)["deleted"] is True


def test_a_value_comes_from_stdin(users: Users):
    """With its content type."""
    users.done("put", users.key("k"), "--file", "-", "--content-type", "application/json", stdin='{"a": 1}')
    item = users.client.get(users.key("k"))

    assert item is not None
    assert (item.text, item.content_type) == ('{"a": 1}', "application/json")


def test_a_value_that_is_too_large_is_not_sent(users: Users, tmp_path: Path):
    """Of a file no more is read than a value may have."""
    (tmp_path / "value").write_bytes(b"x" * 262_145)
    result = users.run("put", users.key("k"), "--file", tmp_path / "value")

    assert (result.code, "has more than 262144 bytes, the most that it may have here" in result.err) == (1, True)


def test_a_key_goes_away_after_its_ttl(users: Users):
    """Not later than some seconds after."""
    users.done("put", users.key("k"), "v", "--ttl", 1)

    assert wait_until(lambda: users.value("k") is None, 30)
    versions = list(users.client.history(users.key("k")))
    assert [version.op for version in versions] == ["delete", "put"]
    assert versions[1].item is not None
    assert versions[1].item.lease is not None


def test_under_one_request_id_a_write_is_done_once(users: Users):
    """The second one gets the answer of the first, and says so."""
    request_id = users.prefix.strip("/")
    first = users.done("put", users.key("k"), "v", "--request-id", request_id)
    again = users.done("put", users.key("k"), "v", "--request-id", request_id)
    other = users.run("put", users.key("k"), "other", "--request-id", request_id)

    assert again == first.rstrip("\n") + ", by an earlier try\n"
    item = users.client.get(users.key("k"))
    assert (other.code, item and (item.version, item.text)) == (2, (1, "v"))


def test_deleting_what_is_not_there_ends_with_3(users: Users):
    """Deleting what is there says at which revision."""
    users.put("k", "v")
    deleted = users.done("delete", users.key("k"))
    again = users.run("delete", users.key("k"))

    assert deleted.startswith(f"{users.key('k')} deleted at revision ")
    assert (again.code, again.out, "there was no key" in again.err) == (3, "", True)


# --- list -----------------------------------------------------------------------------------------------------


def test_a_list_has_a_line_for_each_key(users: Users):
    """Key, revision and value in the order of the keys; tabs and line breaks in them are escaped."""
    second = users.put("b", "two\nlines\tand a tab")
    first = users.put("a", "v")

    assert users.done("list", users.prefix).splitlines() == [
        f"{users.key('a')}\t{first}\tv",
        f"{users.key('b')}\t{second}\ttwo\\nlines\\tand a tab",
    ]
    assert users.done("list", users.prefix, "--keys-only") == f"{users.key('a')}\n{users.key('b')}\n"


def test_a_list_is_narrowed_down(users: Users):
    """Where it begins, how long it is, as of when; or only how many keys there are."""
    for name in ("a", "b", "c"):
        users.put(name, "v")
    before = users.put("c", "v")
    users.delete("a")

    def names(*flags: object) -> str:
        return "".join(line[-1] for line in users.done("list", users.prefix, "--keys-only", *flags).splitlines())

    assert names() == "bc"
    assert names("--at", before) == "abc"
    assert names("--from", users.key("b"), "--limit", 1) == "b"
    assert names("--from", users.key("bb")) == "c"
    assert users.done("list", users.prefix, "--count") == "2\n"
    assert users.json("list", users.prefix, "--count") == {"count": 2}


def test_a_list_as_json_can_be_loaded_again(users: Users):
    """More than a page of it, values that are no text, and kinds of values included."""
    users.client.batch(Put(users.key(f"{number:04}"), f"v{number}") for number in range(1_200))
    users.client.put(users.key("x"), b"\xff", content_type="image/x")
    listed = users.done("list", users.prefix, "--json")
    copied = listed.replace(users.prefix, f"copy-{users.prefix}")
    users.done("load", "-", stdin=copied)
    copies = list(users.client.list(f"copy-{users.prefix}"))

    assert [copy.key for copy in copies[:2]] == [f"copy-{users.key('0000')}", f"copy-{users.key('0001')}"]
    assert (len(copies), copies[7].text) == (1_201, "v7")
    assert (copies[-1].value, copies[-1].content_type) == (b"\xff", "image/x")


# --- txn ------------------------------------------------------------------------------------------------------


def test_a_transaction_does_all_or_the_other(users: Users, tmp_path: Path):
    """What is in "then" if all comparisons hold, and exit code 0; else what is in "else", and exit code 3."""
    key = users.key("k")
    revision = users.put("k", "v1")
    file = tmp_path / "txn.json"
    body = {
        "compare": [{"key": key, "target": "revision", "op": "=", "value": revision}],
        "then": [{"op": "put", "key": key, "value": "v2"}, {"op": "get", "key": key}],
        "else": [{"op": "get", "key": key}, {"op": "get", "key": users.key("none")}],
    }
    file.write_text(json.dumps(body))
    first = users.run("txn", file)
    second = users.run("txn", file)
    as_json = users.run("txn", "-", "--json", stdin=file.read_text())
    found = json.loads(as_json.out)

    assert (first.code, first.out) == (0, f"put\t{key}\nget\t{key}\tv2\n")
    assert (second.code, second.out) == (3, f"get\t{key}\tv2\nget\t{users.key('none')}\t(none)\n")
    assert first.err.startswith("then was done at revision ")
    assert 'what is compared does not hold, so "else" was done' in second.err
    assert (as_json.code, found["succeeded"]) == (3, False)
    assert [one["item"] and one["item"]["value"] for one in found["results"]] == ["v2", None]


def test_a_transaction_that_is_none_does_nothing(users: Users):
    """No JSON: exit code 1; JSON that makes no sense to a node: 2, with its words."""
    no_json = users.run("txn", "-", stdin="{]")
    no_txn = users.run("txn", "-", stdin='{"then": [{"op": "jump", "key": "k"}]}')

    assert (no_json.code, "stdin holds no transaction: " in no_json.err) == (1, True)
    assert (no_txn.code, 'then[0]: the field "op" must be ' in no_txn.err) == (2, True)


# --- load -----------------------------------------------------------------------------------------------------


def test_a_load_says_how_much_it_has_done(users: Users, tmp_path: Path):
    """Puts and deletes in order; the numbers as JSON."""
    file = tmp_path / "operations"
    lines = [{"key": users.key("a"), "value": "v"}, {"op": "delete", "key": users.key("a")}]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plain = users.done("load", file)
    as_json = users.json("load", file)

    assert plain.startswith("2 operations done, the last at revision ")
    assert as_json["operations"] == 2
    assert users.value("a") is None


def test_a_loaded_key_hangs_on_its_lease_unless_it_was_listed(users: Users):
    """A listed key's lease is that of another time; the put of a key says which one it means."""
    lease = users.client.lease(60).id
    put = {"key": users.key("a"), "value": "v", "lease": lease}
    listed = put | {"key": users.key("b"), "create_revision": 1, "revision": 1, "version": 1}
    users.done("load", "-", stdin=f"{json.dumps(put)}\n{json.dumps(listed)}\n")

    assert [item.lease for item in users.client.list(users.prefix)] == [lease, None]


def test_a_load_that_stops_says_where_and_how_to_go_on(users: Users, tmp_path: Path):
    """The line that is wrong, the lines that are done; the command that it names does the others."""
    file = tmp_path / "operations"
    good = [json.dumps({"key": users.key(f"{number:05}"), "value": "v"}) for number in range(4_010)]
    bad = [*good[:4_005], '{"key": 5}', *good[4_005:]]
    file.write_text("\n".join(bad) + "\n")
    stopped = users.run("load", file)
    assert (stopped.code, stopped.out) == (1, "")
    assert f"line 4006 of {file} is no put or delete: " in stopped.err
    command = stopped.err.split("do the others with `")[1].split("`")[0]
    rest, _, load = command.partition(" | ")
    first = int(rest.split()[2].removeprefix("+"))

    assert users.client.count(users.prefix) == first - 1
    assert (rest, load) == (f"tail -n +{first} {file}", "python -m kvlog load -")
    users.done("load", "-", stdin="\n".join([*bad[first - 1 : 4_005], *bad[4_006:]]))
    assert users.client.count(users.prefix) == 4_010


def test_a_load_shows_a_bar_on_a_terminal(users: Users, tmp_path: Path):
    """On stderr, and nothing of it stays."""
    file = tmp_path / "operations"
    file.write_text(json.dumps({"key": users.key("a"), "value": "v"}) + "\n")
    result = on_terminal("stderr", "load", file, "--node", users.nodes)

    assert result.code == 0, result.err
    assert result.out.startswith("1 operation done")
    assert "loading" in result.err
    assert result.err.rstrip().endswith("\x1b[2K")  # the line is erased


# --- nodes ----------------------------------------------------------------------------------------------------


def test_a_node_that_is_down_is_passed_over(users: Users):
    """Writes and reads go to the next one; if all are down it says so, and that nothing has happened."""
    down = "127.0.0.1:1"
    written = users.done("put", users.key("k"), "v", "--node", f"{down},{users.nodes}")
    failed = users.run("put", users.key("k"), "v", "--node", down, "--timeout", "0.5")

    assert "created at revision" in written
    assert (failed.code, failed.out) == (1, "")
    assert f"{down}: connection refused" in failed.err
    assert failed.err.endswith("name nodes that work with --node HOST:PORT\n")


def test_a_write_of_unknown_fate_names_the_command_that_finds_out(make_nodes: Callable[..., list[NodeStandIn]]):
    """Under the id that the node was asked with."""
    (node,) = make_nodes("n1")
    unknown = {"type": "kvlog:unknown", "outcome": "unknown", "detail": "the leader has not answered"}
    node.routes["DELETE /v1/kv/k"] = lambda _: (504, unknown)
    result = kvlog("delete", "k", "--node", node.url, "--timeout", "0.5", "--request-id", "order-7")

    assert (result.code, result.out) == (1, "")
    assert (
        "it is not known whether it has happened: `python -m kvlog request order-7 --settle` finds" in result.err
    )


def test_what_became_of_a_write_is_asked_for_by_its_id(users: Users):
    """`request` knows the id under which `put` has written."""
    request_id = users.prefix.strip("/")
    revision = users.json("put", users.key("k"), "v", "--request-id", request_id)["revision"]
    found = users.json("request", request_id)

    assert (found["outcome"], found["revision"]) == ("committed", revision)
