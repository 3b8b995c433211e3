"""Both clients behind one face, and nodes that answer as they are told to."""

from __future__ import annotations

import asyncio
import inspect
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, Self

import pytest

from kvlog import AsyncClient, Client
from kvlog.client import AsyncLease, AsyncLock, AsyncPages, AsyncTxn, AsyncWatch
from kvlog.cluster import Cluster, ClusterNode
from kvlog.ensemble import LocalEnsemble
from kvlog.processes import ProcessKeeper, free_ports

from .scripted_node import Reply, Script, ScriptedNode

WAIT_S = 30.0


class Loop:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, act: Callable[[], Any]) -> Any:
        """What a function on the loop returns, awaited if it is to be."""

        async def on_loop() -> Any:
            found = act()
            return await found if inspect.isawaitable(found) else found

        future: Future[Any] = asyncio.run_coroutine_threadsafe(on_loop(), self._loop)
        return future.result(WAIT_S)

    def close(self) -> None:
        """End it; nothing may be left running on it."""

        async def left() -> list[str]:
            await asyncio.sleep(0)
            return [str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]

        still_running = self.run(left)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()
        assert still_running == []


class OnLoop:
    """Something of the asynchronous client as if it were its twin of the other one."""

    KINDS = (AsyncClient, AsyncLease, AsyncLock, AsyncPages, AsyncTxn, AsyncWatch)

    def __init__(self, loop: Loop, thing: Any) -> None:
        self._loop, self._thing = loop, thing

    def __getattr__(self, name: str) -> Any:
        if name == "close" and not hasattr(self._thing, "close"):
            name = "aclose"
        found = getattr(self._thing, name)
        if not inspect.ismethod(found):
            return self._wrapped(found)
        return lambda *args, **kwargs: self._wrapped(self._loop.run(lambda: found(*args, **kwargs)))

    def __enter__(self) -> Self:
        self._loop.run(self._thing.__aenter__)
        return self

    def __exit__(self, *error: Any) -> None:
        self._loop.run(lambda: self._thing.__aexit__(*error))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        async def following() -> tuple[Any, ...]:
            async for found in self._thing:
                return (found,)
            return ()

        found = self._loop.run(following)
        if not found:
            raise StopIteration
        return found[0]

    def __repr__(self) -> str:
        return repr(self._thing)

    def _wrapped(self, found: Any) -> Any:
        if found is self._thing:
            return self
        return OnLoop(self._loop, found) if isinstance(found, self.KINDS) else found


@pytest.fixture(params=["threads", "asyncio"])
def make_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes clients of one kind or the other; they are closed in the end."""
    loop = Loop() if request.param == "asyncio" else None
    made: list[Any] = []

    def make(*nodes: ScriptedNode | str, **settings: Any) -> Any:
        addresses = [node if isinstance(node, str) else node.address for node in nodes]
        if loop is None:
            made.append(Client(addresses, **settings))
        else:
            made.append(OnLoop(loop, loop.run(lambda: AsyncClient(addresses, **settings))))
        return made[-1]

    yield make
    for client in made:
        client.close()
    if loop is not None:
        loop.close()


@pytest.fixture
def make_node() -> Iterator[Callable[..., ScriptedNode]]:
    """Makes nodes that answer as they are told to."""
    made: list[ScriptedNode] = []

    def make(script: Script | list[Reply], port: int = 0) -> ScriptedNode:
        made.append(ScriptedNode(script, port))
        return made[-1]

    yield make
    for node in made:
        node.close()


@pytest.fixture(scope="module")
def standing(keeper: ProcessKeeper, ensemble: LocalEnsemble) -> Iterator[Cluster]:
    """Three nodes; a test may kill or pause them."""
    name = f"client-{uuid.uuid4().hex[:8]}"
    cluster = Cluster(
        keeper, ensemble.hosts, ports=free_ports(3), root=f"/{name}", directory=keeper.directory / name
    )
    yield cluster
    for node in cluster.running:
        node.resume()
        node.kill()


@pytest.fixture
def nodes(standing: Cluster) -> list[ClusterNode]:
    """The nodes of the standing cluster, all of them up, the leader first."""
    for node in standing.nodes:
        if node.running:
            node.resume()
        else:
            node.start(wait=False)
    leader = standing.wait_until_settled()
    return [leader, *(node for node in standing.nodes if node is not leader)]
