"""A Front with a small application of its own: ``front_server.py PORT THREADS WAITING PATIENCE_S [BROKEN]``.

The application's paths do what the tests need (see APPLICATION, and the handlers below it). What it has seen is
told by /state, on the event loop: also while all threads are busy. BROKEN names a part that fails on purpose.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from kvlog.errors import StoreFailure, TooBusy
from kvlog.front import Answer, Begin, Exchange, Front, Reply, Scope, make_server, query_of, wsgi
from kvlog.guard import Guard

MEBIBYTE = b"x" * 1024 * 1024
LIMIT = 1024 * 1024
PLAIN = [("Content-Type", "text/plain")]

seen: Counter[str] = Counter()
released = threading.Event()
Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]


def fail(code: int, reason: str) -> None:
    print(f"exit {code}: {reason}", file=sys.stderr, flush=True)
    os._exit(code)


def whole(start: Start, body: bytes, status: str = "200 OK", *headers: tuple[str, str]) -> list[bytes]:
    start(status, [*PLAIN, ("Content-Length", str(len(body))), *headers])
    return [body]


class Pieces:
    """A streamed answer that tells how much of it was taken, and that it was closed."""

    def __init__(self, name: str, pieces: Iterable[bytes]) -> None:
        self.name = name
        self.pieces = iter(pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        data = next(self.pieces)
        seen[f"{self.name} taken"] += 1
        return data

    def close(self) -> None:
        seen[f"{self.name} closed"] += 1


# --- the application ------------------------------------------------------------------------------------------


def environ(environ: Environ, start: Start) -> Iterable[bytes]:
    texts = {name: value for name, value in environ.items() if isinstance(value, str | bool)}
    texts["body"] = environ["wsgi.input"].read().decode("latin-1")
    return whole(start, json.dumps(texts).encode())


def echo(environ: Environ, start: Start) -> Iterable[bytes]:
    seen["echo begun"] += 1
    return whole(start, environ["wsgi.input"].read())


def unread(environ: Environ, start: Start) -> Iterable[bytes]:
    return whole(start, b"unread")


def lines(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", PLAIN)

    def lengths() -> Iterator[bytes]:
        try:
            for line in environ["wsgi.input"]:
                yield b"%d\n" % len(line)
        except TooBusy:
            seen["lines busy"] += 1

    return Pieces("lines", lengths())


def limited(environ: Environ, start: Start) -> Iterable[bytes]:
    """As the API does: reads one byte more than it takes, and refuses then."""
    size = 0
    while size <= LIMIT and (chunk := environ["wsgi.input"].read(LIMIT + 1 - size)):
        size += len(chunk)
    if size > LIMIT:
        return whole(start, b"too large", "413 Too Large", ("Connection", "close"))
    return whole(start, b"%d" % size)


def stream(environ: Environ, start: Start) -> Iterable[bytes]:
    """64 MiB, without a length."""
    start("200 OK", PLAIN)
    return Pieces("stream", (MEBIBYTE for _ in range(64)))


def endless(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", PLAIN)
    return Pieces("endless", itertools.repeat(MEBIBYTE))


def ticks(environ: Environ, start: Start) -> Iterable[bytes]:
    """A little now and then, for ever."""
    start("200 OK", PLAIN)

    def tick() -> Iterator[bytes]:
        while True:
            yield b"tick\n"
            time.sleep(0.02)

    return Pieces("ticks", tick())


def written(environ: Environ, start: Start) -> Iterable[bytes]:
    """The old way: through what start_response returns."""
    write = start("200 OK", PLAIN)
    write(b"one ")
    write(b"two ")
    return [b"three"]


def breaks(environ: Environ, start: Start) -> Iterable[bytes]:
    raise ZeroDivisionError("the application breaks")


def breaks_later(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", PLAIN)

    def pieces() -> Iterator[bytes]:
        yield b"the beginning"
        raise ZeroDivisionError("the answer breaks off")

    return Pieces("breaks", pieces())


def no_bytes(environ: Environ, start: Start) -> Iterable[Any]:
    start("200 OK", PLAIN)
    return (piece for piece in ("text",))


def bad_header(environ: Environ, start: Start) -> Iterable[bytes]:
    return whole(start, b"", "200 OK", ("X-Bad", "a\r\nX-Worse: b"))


def breaks_closing(environ: Environ, start: Start) -> Iterable[bytes]:
    class Answer(list[bytes]):
        def close(self) -> None:
            raise ZeroDivisionError("the application breaks after its answer")

    return Answer(whole(start, b"whole"))


def changes_its_mind(environ: Environ, start: Start) -> Iterable[bytes]:
    """Starts a response, and then another one instead."""
    start("200 OK", PLAIN)
    try:
        [].pop()
    except IndexError:
        start("418 Teapot", PLAIN, sys.exc_info())
    return [b"short and stout"]


def empty(status: str) -> Callable[[Environ, Start], Iterable[bytes]]:
    def answer(environ: Environ, start: Start) -> Iterable[bytes]:
        start(status, [("ETag", '"7"')])
        return []

    return answer


def hold(environ: Environ, start: Start) -> Iterable[bytes]:
    """Waits for /release, or until there is the file that the query names."""
    seen["held"] += 1
    file = environ["QUERY_STRING"]
    while not (Path(file).exists() if file else released.wait(0.05)):
        time.sleep(0.01)
    seen["held to the end"] += 1
    return whole(start, b"held")


def leaves(environ: Environ, start: Start) -> Iterable[bytes]:
    sys.exit(3)


APPLICATION: dict[str, Callable[[Environ, Start], Iterable[bytes]]] = {
    "/echo": echo,
    "/unread": unread,
    "/lines": lines,
    "/limited": limited,
    "/stream": stream,
    "/endless": endless,
    "/ticks": ticks,
    "/written": written,
    "/breaks": breaks,
    "/breaks-later": breaks_later,
    "/no-bytes": no_bytes,
    "/bad-header": bad_header,
    "/breaks-closing": breaks_closing,
    "/changes-its-mind": changes_its_mind,
    "/204": empty("204 No Content"),
    "/304": empty("304 Not Modified"),
    "/hold": hold,
    "/leaves": leaves,
}


def application(request: Environ, start: Start) -> Iterable[bytes]:
    seen["requests"] += 1
    return APPLICATION.get(request["PATH_INFO"], environ)(request, start)


# --- on the event loop ----------------------------------------------------------------------------------------


async def state(scope: Scope, proto: Exchange) -> None:
    told = dict(seen)
    told["threads"] = sum(thread.name.startswith("kvlog-http") for thread in threading.enumerate())
    status = Path("/proc/self/status").read_text()
    told["resident"] = int(status.split("VmRSS:")[1].split()[0]) * 1024
    proto.response_bytes(200, PLAIN, json.dumps(told).encode())


async def query(scope: Scope, proto: Exchange) -> None:
    proto.response_bytes(200, PLAIN, query_of(scope).encode())


async def release(scope: Scope, proto: Exchange) -> None:
    released.set()
    proto.response_bytes(200, PLAIN, b"")


async def watch(scope: Scope, proto: Exchange) -> None:
    """Events: one at once, the others once released; it ends when it is cancelled."""
    answer = proto.response_stream(200, [("Content-Type", "text/event-stream")])
    seen["watching"] += 1
    try:
        await answer.send_bytes(b"data: begun\n\n")
        while not released.is_set():
            await asyncio.sleep(0.02)
        await answer.send_bytes(b"data: released\n\n")
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        await answer.send_bytes(b"data: bye\n\n")
        raise
    finally:
        seen["watching"] -= 1


async def flood(scope: Scope, proto: Exchange) -> None:
    """64 MiB as fast as they are taken."""
    answer = proto.response_stream(200, PLAIN)
    for _ in range(64):
        await answer.send_bytes(MEBIBYTE)
        seen["flood sent"] += 1


async def raises(scope: Scope, proto: Exchange) -> None:
    raise ZeroDivisionError("the handler breaks")


async def raises_later(scope: Scope, proto: Exchange) -> None:
    await proto.response_stream(200, PLAIN).send_bytes(b"the beginning")
    raise ZeroDivisionError("the handler breaks off")


async def says_nothing(scope: Scope, proto: Exchange) -> None:
    pass


async def loses_its_store(scope: Scope, proto: Exchange) -> None:
    raise StoreFailure("no space")


async def leaves_a_callback(scope: Scope, proto: Exchange) -> None:
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    proto.response_bytes(200, PLAIN, b"")


# --- the shortcut ---------------------------------------------------------------------------------------------


def short(body: bytes) -> Answer:
    """What only the shortcut answers."""
    length = b"%d" % len(body)
    return 200, [(b"Content-Type", b"text/plain"), (b"X-Shortcut", b"yes"), (b"Content-Length", length)], body


def later(make: Callable[[], Answer | None], *, held: bool = False) -> Begin:
    """Replies on another thread; ``held``: once released."""

    def made() -> Answer | None:
        seen["made"] += 1
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("an answer is made on the event loop")
        return make()

    def begin(reply: Reply) -> None:
        def run() -> None:
            if held:
                released.wait()
            reply(made)

        seen["begun"] += 1
        threading.Thread(target=run).start()

    return begin


SHORTCUTS: dict[str, Callable[[bytes], Answer | Begin | None]] = {
    "/short": short,
    "/short/later": lambda body: later(lambda: short(body)),
    "/short/held": lambda body: later(lambda: short(body), held=True),
    "/short/none": lambda _: None,
    "/short/none-later": lambda _: later(lambda: None),
    "/short/breaks": lambda _: short(1 / 0),
    "/short/breaks-beginning": lambda _: lambda _: 1 / 0,
    "/short/breaks-later": lambda _: later(lambda: 1 / 0),
}


def shortcut(scope: Scope, body: bytes) -> Answer | Begin | None:
    found = SHORTCUTS.get(scope["path"])
    return None if found is None else found(body)


def make_front(threads: int, waiting: int, patience_s: float, broken: str) -> Front:
    if broken == "environ":
        wsgi.environ_of = lambda _: 1 / 0

    async def stop(scope: Scope, proto: Exchange) -> None:
        threading.Thread(target=front.stop).start()
        proto.response_bytes(200, PLAIN, b"")

    handlers = {
        "/state": state,
        "/query": query,
        "/release": release,
        "/watch": watch,
        "/flood": flood,
        "/raises": raises,
        "/raises-later": raises_later,
        "/says-nothing": says_nothing,
        "/loses-its-store": loses_its_store,
        "/leaves-a-callback": leaves_a_callback,
        "/stop": stop,
    }
    guard = Guard(fail)
    guard.install()
    Finalize(None, lambda: print("finalized", flush=True), exitpriority=1)
    front = Front(
        application,
        guard,
        handlers=handlers,
        shortcut=shortcut,
        headers=[("X-Node", "n1")],
        threads=threads,
        waiting_max=waiting,
        slow_max=threads // 2,
        body_s=patience_s,
    )
    return front


def main() -> None:
    port, threads, waiting, patience, *broken = sys.argv[1:]
    patience_s = wsgi.PIECE_S = float(patience)
    multiprocessing.set_start_method("fork", force=True)
    server = make_server("127.0.0.1", int(port), head_s=patience_s)
    server.serve(
        target_loader=lambda: make_front(int(threads), int(waiting), patience_s, "".join(broken)),
        wrap_loader=False,
    )


if __name__ == "__main__":
    main()
