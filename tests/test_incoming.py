"""How the front takes a body in, without a server: in an order of steps in which it once came to no end."""

from __future__ import annotations

import asyncio
import threading

from kvlog.front.exchange import Incoming, Message

ENDED_S = 10.0


def test_a_piece_that_has_come_and_is_not_taken_in_yet_is_found():
    """Who watches for the client's end has asked for it; who wants it comes just before it is handed over.

    Waiting for what is there already gave the event loop no turn: nothing was ever answered again.
    """
    found: list[bytes] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"data", "more_body": True}

    async def both() -> None:
        incoming = Incoming(receive)
        incoming.watch(lambda: None)  # asks; its task takes the first turn
        found.append(await asyncio.create_task(incoming.piece()))  # and this one the second, before the callback
        incoming.close()

    # On a thread of its own: a loop that gets no turn cannot be told to stop.
    thread = threading.Thread(target=asyncio.run, args=(both(),), daemon=True)
    thread.start()
    thread.join(ENDED_S)

    assert found == [b"data"]
