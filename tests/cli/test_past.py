"""history, diff, rollback, explain on a real cluster: what users see of the past, and how they go back."""

import re

from .conftest import Users


def test_a_history_has_a_line_for_each_version(users: Users):
    """The newest first: revision, time, put or delete, value."""
    first = users.put("k", "v1")
    second = users.put("k", "two\nlines")
    third = users.delete("k")
    lines = [line.split("\t") for line in users.done("history", users.key("k")).splitlines()]

    assert [[line[0], *line[2:]] for line in lines] == [
        [str(third), "delete"],
        [str(second), "put", "two\\nlines"],
        [str(first), "put", "v1"],
    ]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line[1]) for line in lines)
    assert [line.split("\t")[0] for line in users.done("history", users.key("k"), "--limit", 1).splitlines()] == [
        str(third)
    ]


def test_a_history_as_json_has_the_items(users: Users):
    """A version in each line; a deletion has no value."""
    revision = users.put("k", "v1")
    users.delete("k")
    deleted, put = users.lines("history", users.key("k"))

    assert (deleted["op"], "value" in deleted) == ("delete", False)
    assert (put["op"], put["revision"], put["key"], put["value"]) == ("put", revision, users.key("k"), "v1")
    assert put["time_ms"] > 1_700_000_000_000


def test_a_key_that_never_was_has_no_history(users: Users):
    """Exit code 3."""
    result = users.run("history", users.key("none"))

    assert (result.code, result.out) == (3, "")
    assert f"nothing is remembered of a key {users.key('none')!r}" in result.err


def test_a_diff_shows_what_was_and_what_is(users: Users):
    """A line with - for what is gone, one with + for what has come; keys that are equal are left out."""
    users.put("gone", "v")
    users.put("same", "v")
    start = users.put("changed", "old")
    users.delete("gone")
    users.put("changed", "new")
    end = users.put("added", "v")
    users.put("later", "v")

    assert users.done("diff", start, end, "--prefix", users.prefix).splitlines() == [
        f"+\t{users.key('added')}\tv",
        f"-\t{users.key('changed')}\told",
        f"+\t{users.key('changed')}\tnew",
        f"-\t{users.key('gone')}\tv",
    ]
    until_now = users.lines("diff", end, "--prefix", users.prefix)
    assert [(one["key"], one["before"], one["after"]["value"]) for one in until_now] == [
        (users.key("later"), None, "v")
    ]


def test_a_rollback_brings_keys_back(users: Users):
    """First said, then done, as a new revision; to go back to that one changes nothing."""
    users.put("a", "old")
    revision = users.put("b", "old")
    users.put("a", "new")
    users.delete("b")
    flags = (revision, "--prefix", users.prefix)
    said = users.done("rollback", *flags, "--dry-run")
    before = users.value("a"), users.value("b")
    done = users.json("rollback", *flags)
    nothing = users.done("rollback", done["revision"], "--prefix", users.prefix)

    assert said == "2 keys would be rolled back; leave --dry-run out to do it\n"
    assert before == ("new", None)
    assert (done["changes"], done["dry_run"]) == (2, False)
    assert [(item.revision, item.text) for item in users.client.list(users.prefix)] == [
        (done["revision"], "old")
    ] * 2
    assert nothing == f"nothing had to be changed: all is as at revision {done['revision']}\n"


def test_a_rollback_of_one_key_leaves_the_others(users: Users):
    """Said in words."""
    revision = users.put("a", "old")
    users.put("a", "new")
    users.put("ab", "new")
    said = users.done("rollback", revision, "--key", users.key("a"))

    assert said.startswith(f"1 key rolled back to revision {revision}, as revision ")
    assert (users.value("a"), users.value("ab")) == ("old", "new")


def test_explain_says_it_in_sentences(users: Users):
    """And as JSON all that the node knows."""
    revision = users.put("k", "v")
    said = users.done("explain", users.key("k"))
    found = users.json("explain", users.key("k"))

    assert f"{users.key('k')} is 'v' on this node since revision {revision}" in said
    assert "leads, since epoch" in said
    assert (found["key"], found["present"], found["not_applied"]) == (users.key("k"), True, [])
