"""/v1/kv/<key>: raw values, conditions, negotiation. Each sentence of docs/api.md about them is a test here."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from kvlog.cluster import ClusterNode

from .wire import Answer, call, get, refused


def put(node: ClusterNode, key: str, value: bytes = b"v", query: str = "", **headers: str) -> Answer:
    return call(node, "PUT", path(key) + query, value, **headers)


def path(key: str) -> str:
    return "/v1/kv/" + quote(key, safe="")


def revision(answer: Answer) -> int:
    assert answer.status in (200, 201), answer
    return answer.body["revision"]


# --- a value there and back -----------------------------------------------------------------------------------


def test_a_value_comes_back_as_it_was_put(solo: ClusterNode, key: str):
    """201 the first time, 200 after that; bytes and content type are kept, the revision is the tag."""
    first = put(solo, key, b"\x00\xff\r\n", Content_Type="image/x-any; a=1")
    second = put(solo, key, b"")
    now = call(solo, "GET", path(key))
    before = call(solo, "GET", path(key) + f"?at={revision(first)}")

    assert (first.status, second.status) == (201, 200)
    assert set(first.body) == {"outcome", "key", "revision", "index", "leader", "replicas"}
    assert (first.body["outcome"], first.body["key"], first.body["leader"]) == ("committed", key, solo.address)
    assert first.headers["etag"] == f'"{revision(first)}"'
    assert first.headers["kvlog-revision"] == str(revision(first))
    assert (now.status, now.data) == (200, b"")
    assert now.headers["content-type"] == "application/octet-stream"
    assert now.headers["etag"] == f'"{revision(second)}"'
    assert now.headers["kvlog-create-revision"] == str(revision(first))
    assert now.headers["kvlog-version"] == "2"
    assert "kvlog-lease" not in now.headers
    assert (before.data, before.headers["content-type"]) == (b"\x00\xff\r\n", "image/x-any; a=1")
    assert (before.headers["kvlog-revision"], before.headers["kvlog-read"]) == (str(revision(first)), "at")


def test_every_read_says_how_old_it_can_be(solo: ClusterNode, key: str):
    """Revision, indices, staleness, kind of read, and who has answered."""
    written = put(solo, key)
    for answer in (
        call(solo, "GET", path(key)),
        call(solo, "GET", path(key + "-not")),
        call(solo, "GET", "/v1/kv"),
    ):
        said = answer.headers
        assert said["kvlog-revision"] == str(revision(written))
        assert said["kvlog-applied-index"] == said["kvlog-tail-index"] == str(written.body["index"])
        assert 0 <= int(said["kvlog-staleness-ms"]) < 5_000
        assert said["kvlog-read"] == "local"
        assert said["kvlog-node"] == solo.address
        assert len(said["kvlog-instance"]) == 16
        assert said["kvlog-stale"] == "false"


def test_a_key_that_is_not_there_is_not_found(solo: ClusterNode, key: str):
    """404, and as of which revision."""
    now = solo.status()["revision"]

    assert call(solo, "GET", path(key)).refused(404, "not-found", "there is no key")["revision"] == now


def test_the_head_of_a_key_is_that_of_its_value(solo: ClusterNode, key: str):
    """HEAD says all that GET says, and the length, without the value."""
    put(solo, key, b"value", Content_Type="text/plain")
    full, head = call(solo, "GET", path(key)), call(solo, "HEAD", path(key))
    varying = {"date", "kvlog-staleness-ms"}

    assert (head.status, head.data) == (200, b"")
    assert {name: value for name, value in head.headers.items() if name not in varying} == {
        name: value for name, value in full.headers.items() if name not in varying
    }
    assert head.headers["content-length"] == "5"
    absent = call(solo, "HEAD", path(key + "-not"))
    assert (absent.status, absent.data) == (404, b"")


def test_options_tell_the_methods(solo: ClusterNode, key: str):
    """204, without a body."""
    answer = call(solo, "OPTIONS", path(key))

    assert (answer.status, answer.data) == (204, b"")
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}


def test_a_browser_runs_nothing_that_was_stored(solo: ClusterNode, key: str):
    """Values may say that they are HTML: they are shown as nobody's."""
    put(solo, key, b"<script>alert(1)</script>", Content_Type="text/html")
    said = call(solo, "GET", path(key)).headers

    assert (said["content-type"], said["x-content-type-options"]) == ("text/html", "nosniff")
    assert said["content-security-policy"] == "sandbox"


# --- as JSON --------------------------------------------------------------------------------------------------


def test_who_wants_json_gets_the_item(solo: ClusterNode, key: str):
    """Text as text, what is no UTF-8 in base64; its tag differs from that of the raw value."""
    first = put(solo, key, "wörter".encode(), Content_Type="text/plain")
    item = call(solo, "GET", path(key), Accept="application/json")
    second = put(solo, key, b"\xff\x00")
    binary = call(solo, "GET", path(key), Accept="application/json")

    assert item.body == {
        "key": key,
        "value": "wörter",
        "content_type": "text/plain",
        "create_revision": revision(first),
        "revision": revision(first),
        "version": 1,
    }
    assert item.headers["vary"] == "Accept"
    assert item.headers["etag"] == f'"{revision(first)}-json"'
    assert (binary.body["value"], binary.body["encoding"]) == ("/wA=", "base64")
    assert binary.body["content_type"] == "application/octet-stream"
    assert call(solo, "GET", path(key)).headers["vary"] == "Accept"
    assert put(solo, key, b"v", If_Match=binary.headers["etag"]).status == 200
    assert put(solo, key, b"v", If_Match=f'"{revision(second)}-json"').status == 412


@pytest.mark.parametrize(
    ("stored", "accept", "as_item"),
    [
        ("text/plain", "application/json", True),
        ("text/plain", "application/json;q=0.5, text/*;q=0.4", True),
        ("text/plain", "*/*", False),
        ("text/plain", "application/json, */*", False),
        ("text/plain", "application/json, text/plain, */*", False),
        ("text/plain", "image/png", False),
        ("text/plain", "application/json;q=0", False),
        ("text/plain", "nonsense", False),
        ("application/json", "application/json", True),
        ("application/json", "*/*", False),
        ("application/json", "application/json, text/plain, */*", False),
    ],
)
def test_the_form_is_negotiated(solo: ClusterNode, key: str, stored: str, accept: str, as_item: bool):
    """JSON for who names it and prefers it; the value itself for everybody else."""
    put(solo, key, b"7", Content_Type=stored)
    answer = call(solo, "GET", path(key), Accept=accept)

    assert answer.status == 200
    assert (answer.data != b"7") == as_item
    assert answer.headers["content-type"] == ("application/json" if as_item else stored)


# --- conditions -----------------------------------------------------------------------------------------------


def test_a_put_can_depend_on_the_revision(solo: ClusterNode, key: str):
    """If-Match: one of these, or any; what does not hold is 412, with the revision at which it did not."""
    first = revision(put(solo, key))
    tag = f'"{first}"'
    assert put(solo, key, If_Match=f'"999999", {tag}').status == 200
    lost = put(solo, key, If_Match=tag)
    assert lost.refused(412, "condition-failed", "nothing was written")["revision"] == first + 2
    assert put(solo, key, If_Match="*").status == 200
    assert put(solo, key, If_Match=f"W/{tag}").status == 412, "weak tags never match (RFC 9110, 13.1.1)"
    assert put(solo, key, If_Match='"not-ours"').status == 412
    assert call(solo, "GET", path(key)).headers["kvlog-version"] == "3"


def test_a_put_can_depend_on_absence(solo: ClusterNode, key: str):
    """If-None-Match: * creates; a list is any but these."""
    assert put(solo, key, If_Match="*").status == 412
    assert put(solo, key, If_Match='"0"').status == 412, "0 is the revision of no key"
    created = put(solo, key, If_None_Match="*")
    assert created.status == 201
    assert put(solo, key, If_None_Match="*").status == 412
    assert put(solo, key, If_None_Match=f'W/"{revision(created)}", "1"').status == 412
    assert put(solo, key, If_None_Match='"999999"').status == 200
    both = put(solo, key, If_Match="*", If_None_Match="*")
    assert both.status == 412, "both have to hold"


def test_a_delete_says_whether_there_was_anything(solo: ClusterNode, key: str):
    """With and without conditions."""
    nothing = call(solo, "DELETE", path(key))
    created = put(solo, key)
    stale = call(solo, "DELETE", path(key), If_Match='"1"')
    done = call(solo, "DELETE", path(key), If_Match=f'"{revision(created)}"')
    again = call(solo, "DELETE", path(key), If_Match="*")

    assert (nothing.status, nothing.body["deleted"]) == (200, False)
    assert set(done.body) == {"outcome", "key", "deleted", "revision", "index", "leader", "replicas"}
    assert (done.status, done.body["deleted"], done.body["outcome"]) == (200, True, "committed")
    assert done.headers["kvlog-revision"] == str(done.body["revision"])
    assert "etag" not in done.headers
    stale.refused(412, "condition-failed")
    again.refused(412, "condition-failed")
    assert call(solo, "GET", path(key)).status == 404
    assert call(solo, "GET", path(key) + f"?at={revision(created)}").data == b"v"


def test_a_get_can_be_saved(solo: ClusterNode, key: str):
    """If-None-Match: 304 for who has this very form already."""
    tag = put(solo, key).headers["etag"]
    same = call(solo, "GET", path(key), If_None_Match=f'"1", W/{tag}')
    as_json = call(solo, "GET", path(key), If_None_Match=tag, Accept="application/json")

    assert (same.status, same.data, same.headers["etag"]) == (304, b"", tag)
    assert "content-type" not in same.headers
    assert same.headers["vary"] == "Accept"
    assert same.headers["kvlog-revision"]
    assert as_json.status == 200
    assert (
        call(solo, "GET", path(key), If_None_Match=as_json.headers["etag"], Accept="application/json").status
        == 304
    )
    assert call(solo, "HEAD", path(key), If_None_Match=tag).status == 304
    assert call(solo, "GET", path(key), If_None_Match="*").status == 304
    assert call(solo, "GET", path(key), If_None_Match='"1"').status == 200


def test_a_get_can_depend_on_the_revision(solo: ClusterNode, key: str):
    """If-Match that fails is 412; a key that is not there is 404 whatever is asked."""
    tag = put(solo, key).headers["etag"]

    assert call(solo, "GET", path(key), If_Match=tag).status == 200
    assert call(solo, "GET", path(key), If_Match="*").status == 200
    call(solo, "GET", path(key), If_Match='"1"').refused(412, "condition-failed", "which If-Match does not name")
    call(solo, "GET", path(key + "-not"), If_Match='"1"').refused(404, "not-found")


@pytest.mark.parametrize("value", ["7", '"7', "", '"a" "b"', '"7";q=1', '*, "7"', ",", 'w/"7"'])
@pytest.mark.parametrize(
    ("method", "name"), [("PUT", "If-Match"), ("DELETE", "If-None-Match"), ("GET", "If-Match")]
)
def test_a_list_of_tags_that_is_none_is_refused(solo: ClusterNode, key: str, method: str, name: str, value: str):
    """400: a condition that is not understood must not be taken for none."""
    tag = put(solo, key).headers["etag"]

    answer = call(solo, method, path(key), b"" if method == "PUT" else None, **{name: value})

    answer.refused(400, "bad-request", f"{name}: must be * or revisions in quotes")
    assert call(solo, "GET", path(key)).headers["etag"] == tag


# --- which key it is ------------------------------------------------------------------------------------------

KEYS = ["a//b", "a/", "/a", "//", "/", ".", "..", "../..", "a/../b", "a b", "a+b", "a%b", "a?b#c", "ключ",
        "a\nb", "\x01", "\U0001f600" * 127 + "abc", "k" * 511, "a;b", "a\\b", "%2F", "k\x00k", "\ufeff",
        "e\u0301"]  # fmt: skip


@pytest.mark.parametrize("text", KEYS, ids=range(len(KEYS)))
def test_any_text_is_a_key(solo: ClusterNode, text: str):
    """Each is a key of its own, whether slashes and dots stand as they are or not."""
    call(solo, "DELETE", path(text))
    created = put(solo, text, text.encode())
    bare = call(solo, "GET", "/v1/kv/" + quote(text, safe="/.~!$&'()*+,;=:@-_"))

    assert (created.status, created.body["key"]) == (201, text)
    assert bare.data == text.encode()
    assert call(solo, "GET", f"/read?key={quote(text, safe='')}").body["value"] == text
    listed = call(solo, "GET", f"/v1/kv?limit=1&from={quote(text, safe='')}").body["items"]
    assert [item["key"] for item in listed] == [text]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"/v1/kv/", "the key is empty"),
        (b"/v1/kv/%00", "the key begins with the character NUL"),
        (b"/v1/kv/%00lease/0000000000000001000", "the key begins with the character NUL"),
        (b"/v1/kv/" + b"k" * 512, "the key has 512 bytes in UTF-8, the limit is 511"),
        (b"/v1/kv/" + b"%F0%9F%98%80" * 128, "the key has 512 bytes in UTF-8"),
        (b"/v1/kv/%ff", "the key is not UTF-8 after percent-decoding"),
        (b"/v1/kv/%ed%a0%80", "the key is not UTF-8 after percent-decoding"),
        (b"/v1/kv/%C0%AF", "the key is not UTF-8 after percent-decoding"),
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"PUT", b"DELETE"])
def test_what_cannot_be_a_key_is_refused(solo: ClusterNode, target: bytes, reason: str, method: bytes):
    """400, whatever was to be done with it."""
    assert refused(get(solo, target, method), 400, reason, "bad-request")


# --- what may come with a value -------------------------------------------------------------------------------


def test_a_value_may_have_a_quarter_of_a_mebibyte(solo: ClusterNode, key: str):
    """262,144 bytes, if they are not much longer in the log; one more is 413, and the connection is closed."""
    largest = b"x" * 262_144
    assert put(solo, key, largest).status == 201
    assert call(solo, "GET", path(key)).data == largest
    assert put(solo, key, b"\xff" * 262_144).status == 200

    beyond = put(solo, key, largest + b"x")
    beyond.refused(413, "too-large", "the body has more than 262144 bytes")
    assert beyond.headers["connection"] == "close"
    escaped = put(solo, key, b"\x01" * 90_000)
    escaped.refused(413, "too-large", "once encoded as JSON")


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("?ttl=0.9", "ttl='0.9': must be a number of seconds from 1 to"),
        ("?ttl=31536001", "must be a number of seconds"),
        ("?ttl=1e9", "must be a number of seconds"),
        ("?ttl=nan", "must be a number of seconds"),
        ("?ttl=", "must be a number of seconds"),
        ("?ttl=5&lease=1000", "leave one of them out"),
        ("?lease=0", "lease='0': must be a whole number from 1"),
        ("?lease=9223372036854775808", "must be a whole number"),
        ("?ack=all", "must be log or replicas"),
        ("?timeout_ms=0", "must be a whole number from 1 to 60000"),
        ("?at=3", "unknown parameter 'at'; there is ttl, lease, ack, timeout_ms"),
        ("?ack=log&ack=log", "the parameter 'ack' is given twice"),
        ("?%ff=1", "not UTF-8"),
    ],
)
def test_a_put_with_parameters_that_make_no_sense_is_refused(solo: ClusterNode, key: str, query: str, reason: str):
    """400, and nothing is written."""
    put(solo, key, b"v", query).refused(400, "bad-request", reason)
    assert call(solo, "GET", path(key)).status == 404


@pytest.mark.parametrize(
    ("headers", "status", "reason"),
    [
        ({"Content-Type": "text"}, 400, "the content type 'text': must look like text/plain"),
        ({"Content-Type": "text/plain; charset"}, 400, "must look like text/plain"),
        ({"Content-Type": "text/" + "x" * 251}, 400, "has 256 characters, the limit is 255"),
        ({"Content-Type": "a/b" + ";    " * 50 + "!"}, 400, "the content type"),
        ({"Content-Encoding": "gzip"}, 415, "send it as it is"),
        ({"Content-Range": "bytes 0-0/10"}, 400, "always put as a whole"),
        ({"Idempotency-Key": "a b"}, 400, "Idempotency-Key"),
    ],
)
def test_a_put_with_headers_that_cannot_be_kept_is_refused(
    solo: ClusterNode, key: str, headers: dict[str, str], status: int, reason: str
):
    """4xx, and nothing is written."""
    answer = put(solo, key, b"v", **headers)

    assert answer.status == status
    assert reason in answer.body["detail"]
    assert call(solo, "GET", path(key)).status == 404


def test_a_delete_takes_no_body(solo: ClusterNode, key: str):
    """400: who sends one means something else."""
    put(solo, key)
    call(solo, "DELETE", path(key), b"all").refused(400, "bad-request", "takes no body")
    assert call(solo, "GET", path(key)).status == 200


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_other_methods_are_refused(solo: ClusterNode, key: str, method: str):
    """405, and which ones there are."""
    answer = call(solo, method, path(key), b"")

    answer.refused(405, "method-not-allowed", "DELETE, GET, HEAD, OPTIONS, PUT")
    assert set(answer.headers["allow"].split(", ")) == {"DELETE", "GET", "HEAD", "OPTIONS", "PUT"}


# --- ids ------------------------------------------------------------------------------------------------------


def test_a_write_under_an_id_happens_once(solo: ClusterNode, key: str):
    """The repetition gets the first answer, 201 and all; so does one whose condition did not hold."""
    first = put(solo, key, b"1", If_None_Match="*", Idempotency_Key=f"{key}-a")
    again = put(solo, key, b"1", If_None_Match="*", Idempotency_Key=f"{key}-a")
    failed = put(solo, key, b"1", If_None_Match="*", Idempotency_Key=f"{key}-b")
    call(solo, "DELETE", path(key), Idempotency_Key=f"{key}-c")
    failed_again = put(solo, key, b"1", If_None_Match="*", Idempotency_Key=f"{key}-b")
    gone = call(solo, "DELETE", path(key), Idempotency_Key=f"{key}-c")

    assert "idempotent-replayed" not in first.headers
    assert (again.status, again.body) == (201, first.body)
    assert again.headers["idempotent-replayed"] == "true"
    assert (failed.status, failed_again.status) == (412, 412)
    assert failed.body == failed_again.body
    assert failed_again.headers["idempotent-replayed"] == "true"
    assert (gone.body["deleted"], gone.headers["idempotent-replayed"]) == (True, "true")


def test_an_id_belongs_to_one_write(solo: ClusterNode, key: str):
    """422 for another write, another condition; 409 once it is cancelled."""
    name = f"{key}-id"
    assert put(solo, key, b"1", Idempotency_Key=name).status == 201
    put(solo, key, b"2", Idempotency_Key=name).refused(422, "id-reused", "belongs to another request")
    put(solo, key, b"1", Idempotency_Key=name, If_Match="*").refused(422, "id-reused")
    assert call(solo, "DELETE", f"/v1/requests/{name}-2").body["outcome"] == "cancelled"
    late = put(solo, key, b"1", Idempotency_Key=f"{name}-2").refused(409, "cancelled", "was cancelled at revision")
    assert late["outcome"] == "refused"


def test_old_and_new_routes_show_the_same_data(solo: ClusterNode, key: str):
    """/update and /read are another way to the same keys."""
    put(solo, key, b"one")
    assert solo.read(key).body == {"key": key, "value": "one"}
    solo.update(key, "two")
    answer = call(solo, "GET", path(key))

    assert (answer.data, answer.headers["content-type"]) == (b"two", "application/octet-stream")
    assert json.loads(call(solo, "GET", path(key), Accept="application/json").data)["version"] == 2
