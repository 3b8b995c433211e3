"""What clients can ask of a node: each route with all that goes in and comes out."""

from __future__ import annotations

from dataclasses import replace

from kvlog.api import batch, history, keys, leases, txn, watch
from kvlog.api.answers import JSON
from kvlog.api.described.operation import (
    AGE,
    ANYTHING,
    BYTES,
    ID,
    IF_MATCH,
    IF_NONE_MATCH,
    NAMED,
    READING,
    THE_KEY,
    WRITING,
    WRITTEN,
    Answer,
    Given,
    Operation,
    json_of,
)
from kvlog.api.described.shapes import a_count, a_list, ref
from kvlog.api.incoming import BODY_BYTES_MAX, NDJSON
from kvlog.api.items import OCTETS
from kvlog.core.entry import CONTENT_TYPE_MAX, VALUE_BYTES_MAX

_GET_KEY = Operation(
    "getKey",
    "get",
    "/v1/kv/{key}",
    "keys",
    "The value of a key as it was put, or the key as a JSON item",
    (
        Answer(
            200,
            "the value, with the Content-Type that it was put with; or the item, where that is preferred",
            {JSON: {"anyOf": [ref("Item"), {"description": "what was put as JSON"}]}, ANYTHING: BYTES},
            ("ETag", "Vary", "Kvlog-Create-Revision", "Kvlog-Version", "Kvlog-Lease", *AGE),
        ),
        Answer(304, "the client has it already: If-None-Match names it", {}, ("ETag", "Vary", *AGE)),
    ),
    query=keys.GET,
    in_path=(THE_KEY,),
    headers=(
        Given("Accept", "with application/json preferred to the value's own type: the item", {"type": "string"}),
        IF_MATCH,
        IF_NONE_MATCH,
    ),
    problems=("not-found", "condition-failed", *READING),
)

_PUT_HEADERS = ("ETag", "Kvlog-Revision", *WRITTEN)

_KEYS = (
    _GET_KEY,
    replace(
        _GET_KEY,
        name="headKey",
        method="head",
        text="What getKey says of a key, without its value",
        answers=tuple(replace(answer, content={}) for answer in _GET_KEY.answers),
    ),
    Operation(
        "putKey",
        "put",
        "/v1/kv/{key}",
        "keys",
        "Put a value",
        (
            Answer(201, "the key is new", json_of("Put"), _PUT_HEADERS),
            Answer(200, "the key has a new value", json_of("Put"), _PUT_HEADERS),
        ),
        query=keys.PUT,
        in_path=(THE_KEY,),
        headers=(ID, IF_MATCH, IF_NONE_MATCH),
        body={OCTETS: BYTES, ANYTHING: BYTES},
        body_text=f"the value, at most {VALUE_BYTES_MAX} bytes; its Content-Type is kept, of at most "
        f"{CONTENT_TYPE_MAX} characters",
        problems=("no-such-lease", "condition-failed", *NAMED, *WRITING),
    ),
    Operation(
        "deleteKey",
        "delete",
        "/v1/kv/{key}",
        "keys",
        "Delete a key",
        (Answer(200, "the key is not there any more", json_of("Deleted"), ("Kvlog-Revision", *WRITTEN)),),
        query=keys.DELETE,
        in_path=(THE_KEY,),
        headers=(ID, IF_MATCH, IF_NONE_MATCH),
        problems=("condition-failed", *NAMED, *WRITING),
    ),
    Operation(
        "listKeys",
        "get",
        "/v1/kv",
        "keys",
        "Keys in order, page by page; all pages of one revision",
        (Answer(200, "a page", json_of("Page"), AGE),),
        query=keys.LIST,
        problems=READING,
    ),
)

_TRANSACTIONS = (
    Operation(
        "transact",
        "post",
        "/v1/txn",
        "transactions",
        "Several keys at one revision, under conditions",
        (Answer(200, "one of both branches was carried out", json_of("TransactionDone"), WRITTEN),),
        query=txn.TXN,
        headers=(ID,),
        body=json_of("Transaction"),
        body_text=f"at most {BODY_BYTES_MAX} bytes; what is written has to fit into an entry of the log, 511 KiB",
        problems=("no-such-lease", "stale-store", *NAMED, *WRITING),
    ),
    Operation(
        "loadBatch",
        "post",
        "/v1/batch",
        "transactions",
        "Many puts and deletes, in order and in chunks, however many there are",
        (
            Answer(
                200,
                "a line for each chunk that is committed, and a last one; what is counted in it is committed",
                {NDJSON: a_list(ref("BatchLine"), "one line of JSON each")},
            ),
        ),
        query=batch.BATCH,
        headers=(
            replace(
                ID, text=f"names the batch, in at most {batch.ID_CHARACTERS_MAX} characters; chunk n is <id>:n"
            ),
        ),
        body={
            JSON: ref("Batch"),
            NDJSON: ref("Batch") | {"description": "one line of JSON each, any number of them"},
        },
        body_text=f"as an array, at most {BODY_BYTES_MAX} bytes; in lines, as many as there are",
        problems=("no-such-lease", *NAMED, *WRITING),
    ),
)

_LEASE = Given("lease", "the lease", a_count(low=1))

_LEASES = (
    Operation(
        "grantLease",
        "post",
        "/v1/leases",
        "leases",
        "Take a lease",
        (Answer(201, "the lease is there; keys can be put with it", json_of("Granted"), WRITTEN),),
        query=leases.GRANT,
        headers=(ID,),
        body=json_of("Grant"),
        problems=(*NAMED, *WRITING),
    ),
    Operation(
        "listLeases",
        "get",
        "/v1/leases",
        "leases",
        "The leases that there are, page by page",
        (Answer(200, "a page", json_of("Leases")),),
        query=leases.LIST,
    ),
    Operation(
        "getLease",
        "get",
        "/v1/leases/{lease}",
        "leases",
        "A lease, its keys, and what is left of its time",
        (Answer(200, "the lease", json_of("Lease")),),
        in_path=(_LEASE,),
        problems=("no-such-lease",),
    ),
    Operation(
        "keepLease",
        "post",
        "/v1/leases/{lease}/keep-alive",
        "leases",
        "Let a lease live for its whole time again",
        (Answer(200, "its time begins anew", json_of("KeptAlive")),),
        query=leases.KEEP_ALIVE,
        in_path=(_LEASE,),
        problems=("no-such-lease", *WRITING),
    ),
    Operation(
        "revokeLease",
        "delete",
        "/v1/leases/{lease}",
        "leases",
        "End a lease, and delete its keys",
        (Answer(200, "it has ended", json_of("Revoked"), WRITTEN),),
        query=leases.REVOKE,
        in_path=(_LEASE,),
        headers=(ID,),
        problems=("no-such-lease", *NAMED, *WRITING),
    ),
)

_LAST_EVENT_ID = a_count() | {"maximum": watch.LAST_EVENT_ID_MAX}

_PAST = (
    Operation(
        "watch",
        "get",
        watch.PATH,
        "watch",
        "Every change, once and in order, as it comes",
        (
            Answer(
                200,
                "Server-Sent Events until the client leaves; with wait=, the next events in JSON, or none in time",
                {"text/event-stream": ref("StreamEvent"), JSON: ref("Events")},
            ),
        ),
        query=watch.PARAMETERS,
        headers=(
            Given("Last-Event-ID", "the id that was seen last: go on behind it; wins over from=", _LAST_EVENT_ID),
        ),
        problems=("history-trimmed", "stale-store", "slow-reader"),
    ),
    Operation(
        "getHistory",
        "get",
        "/v1/history",
        "history",
        "What a key has held, the latest first",
        (Answer(200, "a page", json_of("History")),),
        query=history.HISTORY,
        problems=("stale-store",),
    ),
    Operation(
        "getDiff",
        "get",
        "/v1/diff",
        "history",
        "Which keys differ between two revisions, in order",
        (Answer(200, "a page", json_of("Diff")),),
        query=history.DIFF,
        problems=("history-trimmed", "stale-store", "behind", "too-many-keys"),
    ),
    Operation(
        "rollback",
        "post",
        "/v1/rollback",
        "history",
        "Make a key, or all keys with a prefix, what they were; only if nobody changes them meanwhile",
        (
            Answer(
                200,
                "they are what they were; or, with dry_run, how many would be changed",
                json_of("RolledBack", "RollbackPlan"),
                WRITTEN,
            ),
        ),
        query=history.ROLLBACK,
        headers=(ID,),
        body=json_of("Rollback"),
        problems=(
            "history-trimmed",
            "stale-store",
            "behind",
            "too-many-keys",
            "condition-failed",
            *NAMED,
            *WRITING,
        ),
    ),
)

OPERATIONS = (*_KEYS, *_TRANSACTIONS, *_LEASES, *_PAST)
"""Those of clients."""
