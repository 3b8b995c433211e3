"""For how long nobody's write is acknowledged when the leader goes."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from bench.case import Figure, Unverified
from bench.cases.members_case import MembersCase
from bench.dialects import DIALECTS
from bench.inputs import PREFIX
from bench.systems.base import System
from bench.systems.loaded import HttpSystem
from bench.wire import answer_in, encoded
from kvlog.errors import Unavailable

TIMES = 5
LEAST_TIMES = 2
EVERY_S = 0.005
"""Between two attempts, at whichever node."""

BEFORE_S = 0.5
AFTER_S = 1.0
"""Seconds of writing before the leader goes, and from the first acknowledgement after that."""

ANSWER_S = 2.0
"""Seconds after which an attempt is given up."""

BACK_S = 60.0
"""Seconds after which somebody has to lead again."""

UNANSWERED_MAX = 400
"""Attempts at one node that wait at a time: more than are made in ANSWER_S."""

RECEIVE_BYTES = 1 << 16


@dataclass
class Clients:
    """Who writes, and what they were told.

    Attributes:
        acknowledged: by key, what was promised to last.
        times: of all acknowledgements of one turn, in order, by the event loop's clock.
    """

    system: HttpSystem
    numbers: Iterator[int] = field(default_factory=itertools.count)
    acknowledged: dict[str, str] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def gap(self, go: Callable[[], None]) -> float:
        """Write while ``go`` takes the leader away; the longest time without an acknowledgement."""
        return asyncio.run(self._gap(go))

    async def _gap(self, go: Callable[[], None]) -> float:
        loop = asyncio.get_running_loop()
        self.times.clear()
        writing = asyncio.create_task(self._write_on())
        try:
            await self._acknowledged_after(loop.time() + BEFORE_S)
            begun = loop.time()
            await asyncio.to_thread(go)
            back = await self._acknowledged_after(loop.time())
            await self._acknowledged_after(back + AFTER_S)
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
        first = max(time for time in self.times if time < begun)
        since = [first, *(time for time in self.times if time >= begun)]
        return max(later - earlier for earlier, later in itertools.pairwise(since))

    async def _acknowledged_after(self, moment: float) -> float:
        """Wait for an acknowledgement after a moment; returns when it was."""
        loop = asyncio.get_running_loop()
        while not self.times or self.times[-1] < moment:
            if loop.time() > moment + BACK_S:
                raise Unavailable(f"no write was acknowledged for {BACK_S:g} s: {dict(self.outcomes)}")
            await asyncio.sleep(EVERY_S)
        return self.times[-1]

    async def _write_on(self) -> None:
        """One attempt after the other, until this is cancelled."""
        loop = asyncio.get_running_loop()
        unanswered: Counter[str] = Counter()
        due = loop.time()
        async with asyncio.TaskGroup() as attempts:
            for address in itertools.cycle(self.system.addresses):
                due = max(due + EVERY_S, loop.time())
                await asyncio.sleep(due - loop.time())
                if unanswered[address] < UNANSWERED_MAX:
                    attempts.create_task(self._attempt(address, unanswered))

    async def _attempt(self, address: str, unanswered: Counter[str]) -> None:
        number = next(self.numbers)
        key, value = f"{PREFIX}takeover-{number:08}", f"value-{number}"
        unanswered[address] += 1
        try:
            async with asyncio.timeout(ANSWER_S):
                status, body = await self._ask(address, encoded(address, self.system.put_request(key, value)))
        except TimeoutError:
            self.outcomes["not answered in time"] += 1
        except (OSError, EOFError, Unavailable):
            self.outcomes["no connection, or one that broke"] += 1
        else:
            if DIALECTS[self.system.dialect].acknowledged(status, body):
                self.acknowledged[key] = value
                self.times.append(asyncio.get_running_loop().time())
                self.outcomes["acknowledged"] += 1
            else:
                self.outcomes[f"answered {status}"] += 1
        finally:
            unanswered[address] -= 1

    @staticmethod
    async def _ask(address: str, request: bytes) -> tuple[int, bytes]:
        """On a connection of its own, as a client has to take one when a node has gone."""
        host, port = address.rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            received = b""
            while (answer := answer_in(received)) is None:
                data = await reader.read(RECEIVE_BYTES)
                if not data:
                    raise EOFError
                received += data
            return answer
        finally:
            writer.close()


class Takeover(MembersCase):
    """For how long nobody's write is acknowledged when the leader is killed, and when it is told to stop.

    Clients try all nodes in turn, one write every few milliseconds, however many are not answered yet. Each
    write has a key of its own, and is never sent again. What counts is the longest time between two
    acknowledgements, whoever got them. Then the node is started again.
    """

    def generate(self) -> None:
        """How often; what is written is numbered."""
        super().generate()
        self.times = self.scale.of(TIMES, least=LEAST_TIMES)

    def prepare(self, system: System) -> None:
        """Nothing has to be there."""
        super().prepare(system)
        self.clients = Clients(self.asked)

    def execute(self, system: System) -> list[Figure]:  # noqa: ARG002 - it is known since prepare
        """Kill and stop in turn."""
        killed, stopped = [], []
        for _ in range(self.times):
            killed.append(self._gap(self.members.kill))
            stopped.append(self._gap(self.members.terminate))
        said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.clients.outcomes.items()))
        self.facts["attempts"] = said
        return [
            Figure("kill -9 of the leader: without a write, median", statistics.median(killed), "ms", False),
            Figure("kill -9 of the leader: without a write, longest", max(killed), "ms", False),
            Figure("SIGTERM of the leader: without a write, median", statistics.median(stopped), "ms", False),
            Figure("SIGTERM of the leader: without a write, longest", max(stopped), "ms", False),
        ]

    def _gap(self, go: Callable[[str], None]) -> float:
        """Milliseconds; afterwards all nodes are there again."""
        leader = self.clients.system.find_leader()
        gap = self.clients.gap(lambda: go(leader))
        self.members.start(leader)
        self.members.wait_until_whole()
        return gap * 1e3

    def verify(self, system: System) -> None:  # noqa: ARG002 - it is known since prepare
        """What was acknowledged is there, on every node."""
        asked = self.clients.system
        asked.agree()
        for node in range(len(asked.addresses)):
            found = asked.contents(node)
            lost = [key for key, value in self.clients.acknowledged.items() if found.get(key) != value]
            if lost:
                raise Unverified(f"node {node} has lost {len(lost)} acknowledged writes, {lost[0]} for one")
