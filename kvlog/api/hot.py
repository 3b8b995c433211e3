"""The hottest routes on the event loop, without Flask: reads of one key, and writes at the leader.

Here is only what goes well, what came of a write, and what was waited for in vain. Everything else (a request that
makes no sense, a key that is not there, a stale store, a write at a follower) is left to Flask: both give the same
answers, byte by byte, and without this module nothing is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial

from kvlog.api import course, internal, keys, txn
from kvlog.api.answers import JSON, View, encode
from kvlog.api.incoming import BODY_BYTES_MAX, KEYS, key_in, known_type
from kvlog.api.items import content_type
from kvlog.api.marks import marks, marks_of
from kvlog.api.parameters import REMEMBERED, parameters
from kvlog.api.problems import of_error
from kvlog.api.reading import read_options
from kvlog.api.writing import Planned
from kvlog.core.machine import Record
from kvlog.core.values import PushAnswer, Unknown
from kvlog.errors import Behind, InvalidInput
from kvlog.front import Answer, Begin, Reply, Scope
from kvlog.peers import MSGPACK
from kvlog.service.reads import Found, Read, ReadOptions
from kvlog.service.service import PATIENCE_S, UNDECIDED, Service
from kvlog.service.writes import Written

UNDER_WAY_MAX = 768
"""Requests that may wait at a time without a thread; with those that wait on one, no more than the core takes."""

_KEYS = KEYS.encode()
_PROPAGATE = b"/propagate"

_WRITES_OF_FLASK = frozenset((b"content-encoding", b"transfer-encoding", b"upgrade"))
_READS_OF_FLASK = _WRITES_OF_FLASK | {b"accept", b"if-match", b"if-none-match", b"content-length"}
"""Headers with which a request is no plain one; who asks for a WebSocket finds no route with Flask."""

Encoded = list[tuple[bytes, bytes]]


def _encoded(headers: dict[str, str]) -> Encoded:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


_VALUE_HEADERS = _encoded(keys.VALUE_HEADERS)
_NO_STORE = (b"Cache-Control", b"no-store")


@lru_cache(REMEMBERED)
def _read_options(query: bytes) -> ReadOptions | None:
    """What a query asks of a read of one key; None if Flask is to see to it."""
    try:
        options = read_options(parameters(query.decode(), keys.GET))
    except (InvalidInput, UnicodeDecodeError):
        return None
    return options if options.at is None else None


class _Plain:
    """A request whose body is there, as the routes read one; see incoming.Asked."""

    __slots__ = ("_body", "_headers", "_scope")

    def __init__(self, scope: Scope, body: bytes) -> None:
        self._scope = scope
        self._body = body
        self._headers = dict(scope["headers"])

    @property
    def plain(self) -> bool:
        """No header comes twice, and none is there that Flask has to see to."""
        return len(self._headers) == len(self._scope["headers"]) and self._headers.keys().isdisjoint(
            _WRITES_OF_FLASK
        )

    def query(self) -> str:
        text: bytes = self._scope["query_string"]
        return text.decode()

    def key(self) -> str:
        return key_in(self._scope["raw_path"])

    def header(self, name: str) -> str | None:
        value: bytes | None = self._headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    def body(self, bytes_max: int = BODY_BYTES_MAX, /) -> bytes:
        if len(self._body) > bytes_max:
            raise InvalidInput("the body is too long")
        return self._body

    def json_body(self) -> bytes:
        known_type(self.header("Content-Type"), JSON)
        return self.body()


class HotPath:
    """See the module's docstring; a front.Shortcut."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._reads = service.reads
        self._under_way = 0  # on the event loop only
        self._usual_marks = _encoded(marks_of(service.settings.node_id, service.instance, 0, None))
        self._planners: dict[tuple[str, bytes], Callable[[_Plain], Planned | None]] = {
            ("POST", b"/update"): course.planned_update,
            ("POST", b"/v1/txn"): self._txn,
        }

    def __call__(self, scope: Scope, body: bytes) -> Answer | Begin | None:
        """See front.Shortcut."""
        freshness = self._service.runtime.freshness
        if freshness.missed_entries or freshness.halted_at is not None:
            return None
        method, path = scope["method"], scope["raw_path"]
        if method == "GET":
            return self._read(scope, path)
        if path == _PROPAGATE:
            return self._push(method, scope, body)
        planner = self._planners.get((method, path))
        if planner is None and path.startswith(_KEYS):
            planner = {"PUT": keys.put_of, "DELETE": keys.delete_of}.get(method)
        return None if planner is None else self._write(planner, _Plain(scope, body))

    def _marks(self) -> Encoded:
        """What the answer says of this node: it may have become stale, or have halted, since it was asked."""
        freshness = self._service.runtime.freshness
        if freshness.missed_entries or freshness.halted_at is not None:
            return _encoded(marks(self._service))
        return self._usual_marks

    # --- reads --------------------------------------------------------------------------------------------

    def _read(self, scope: Scope, path: bytes) -> Answer | Begin | None:
        if not path.startswith(_KEYS):
            return None
        options = _read_options(scope["query_string"])
        if options is None or any(name in _READS_OF_FLASK for name, _ in scope["headers"]):
            return None
        try:
            key = key_in(path)
        except InvalidInput:
            return None
        found = self._reads.key_at_once(key, options)
        if found is not None:
            return self._show(found)
        begin = partial(self._read_later, key, options)
        return self._begun(begin, options.timeout_s, lambda: self._view(of_error(Behind(UNDECIDED))))

    def _read_later(self, key: str, options: ReadOptions, reply: Reply) -> None:
        def reached(look: Callable[[], Found]) -> None:
            reply(lambda: self._ended(self._looked(look)))

        self._reads.key_later(key, options, reached)

    def _looked(self, look: Callable[[], Found]) -> Answer | None:
        try:
            found = look()
        except Behind as error:
            return self._view(of_error(error))
        return None if found is None else self._show(found)

    def _begun(self, begin: Begin, timeout_s: float, too_late: Callable[[], Answer]) -> Begin | None:
        """Something that is to be answered later, if not too much is already.

        It is told to be ``too_late`` if nobody has decided in its time: the node will end soon, but not at once.
        """
        if self._under_way >= UNDER_WAY_MAX:
            return None
        self._under_way += 1

        def timed(reply: Reply) -> None:
            def late() -> None:
                reply(lambda: self._ended(too_late()))

            timer = asyncio.get_running_loop().call_later(timeout_s + PATIENCE_S, late)

            def in_time(make: Callable[[], Answer | None]) -> Answer | None:
                timer.cancel()
                return make()

            begin(lambda make: reply(lambda: in_time(make)))

        return timed

    def _ended(self, answer: Answer | None) -> Answer | None:
        self._under_way -= 1
        return answer

    def _show(self, found: tuple[Record | None, Read]) -> Answer | None:
        """A key's raw value, as keys shows it."""
        record, read = found
        if record is None:
            return None
        headers = [
            (b"ETag", b'"%d"' % record.revision),
            *_VALUE_HEADERS,
            (b"Kvlog-Revision", b"%d" % read.revision),
            (b"Kvlog-Applied-Index", b"%d" % read.applied_index),
            (b"Kvlog-Tail-Index", b"%d" % read.tail_index),
            (b"Kvlog-Staleness-Ms", b"unknown" if read.staleness_ms is None else b"%d" % read.staleness_ms),
            (b"Kvlog-Read", read.mode.encode()),
            (b"Kvlog-Create-Revision", b"%d" % record.create),
            (b"Kvlog-Version", b"%d" % record.version),
        ]
        if record.lease:
            headers.append((b"Kvlog-Lease", b"%d" % record.lease))
        headers.append((b"Content-Type", content_type(record).encode("latin-1")))
        headers.append((b"Content-Length", b"%d" % len(record.value)))
        headers += self._marks()
        return 200, headers, record.value

    # --- pushes -------------------------------------------------------------------------------------------

    def _push(self, method: str, scope: Scope, body: bytes) -> Begin | None:
        if method != "POST" or scope["query_string"] or not _Plain(scope, body).plain:
            return None
        try:
            push = internal.push_of(body)
        except InvalidInput:
            return None
        return lambda reply: self._service.propagate_later(
            push, lambda answer: reply(lambda: self._pushed(answer))
        )

    def _pushed(self, answer: object) -> Answer | None:
        if not isinstance(answer, PushAnswer):
            return None
        body = internal.encoded(answer)
        headers = [(b"Content-Type", MSGPACK.encode()), (b"Content-Length", b"%d" % len(body))]
        headers += self._marks()
        headers.append(_NO_STORE)
        return 200, headers, body

    # --- writes -------------------------------------------------------------------------------------------

    def _write(self, planner: Callable[[_Plain], Planned | None], asked: _Plain) -> Begin | None:
        try:
            planned = planner(asked) if asked.plain else None
        except (InvalidInput, UnicodeDecodeError):
            return None
        if planned is None:
            return None
        write = planned.write
        undecided = Written(Unknown(UNDECIDED), "", write.request_id)
        begin = partial(self._write_later, planned)
        return self._begun(begin, write.timeout_s, lambda: self._view(planned.answered(undecided)))

    def _txn(self, asked: _Plain) -> Planned | None:
        wanted = txn.wanted_txn(asked)
        if wanted.gets:  # what is read in it is waited for
            return None
        return Planned(wanted.write, partial(txn.answered, self._reads, wanted))

    def _write_later(self, planned: Planned, reply: Reply) -> None:
        def written(outcome: Written | None) -> None:
            reply(lambda: self._ended(None if outcome is None else self._view(planned.answered(outcome))))

        self._service.writes.write_later(planned.write, written)

    def _view(self, view: View) -> Answer:
        body = encode(view.body).encode()
        headers = _encoded(view.headers)
        headers.append((b"Content-Type", view.media_type.encode()))
        headers.append((b"Content-Length", b"%d" % len(body)))
        headers += self._marks()
        headers.append(_NO_STORE)
        return view.status, headers, body
