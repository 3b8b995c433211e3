"""Load by wrk, whose scripts in ``bench/lua`` make the requests and check every answer.

wrk keeps each connection busy with one request at a time (a closed loop), from one thread. What it calls latency
is the time from the sending of a request to the end of its answer.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from bench.case import Unverified
from bench.inputs import Inputs
from kvlog.processes import ProcessKeeper

BULK = 100
"""Updates in one bulk write."""

MIXED_READS = 19
"""Reads to each write of the mixed load: 95 %."""

ANSWER_S = 60
"""Seconds until a request counts as not answered."""

AFTER_S = 90
"""Seconds that wrk may take beyond its time."""

SAID_CHARACTERS = 1_000
"""Of what wrk says, how much is told where something is wrong."""

_SCRIPTS = Path(__file__).resolve().parent / "lua"
_RESULT = "result: "


class Kind(StrEnum):
    """What the requests of a load do."""

    READ = "read"
    LINEARIZABLE = "linearizable"
    PUT = "put"
    BULK = "bulk"
    MIXED = "mixed"

    @property
    def writes(self) -> bool:
        """Whether any of them writes."""
        return self not in (Kind.READ, Kind.LINEARIZABLE)

    @property
    def updates(self) -> int:
        """How many keys one write writes."""
        return BULK if self is Kind.BULK else 1


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked for.

    Attributes:
        first: the number of its first write, see ``bench.inputs``.
        leader: whether it goes to the leader; writes do in any case.
    """

    kind: Kind
    connections: int
    seconds: float
    first: int = 1
    leader: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it. All answers were right.

    Attributes:
        requests: that were answered.
        seconds: that it took.
        writes_sent: writing requests, including those that were under way at the end.
        writes_answered: those that were acknowledged.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    writes_sent: int
    writes_answered: int

    @property
    def per_second(self) -> float:
        """Requests that were answered per second."""
        return self.requests / self.seconds


def wrk(keeper: ProcessKeeper, dialect: str, address: str, load: Load, inputs: Inputs) -> Outcome:
    """Run wrk against one node, as a child of the keeper, which also has its files.

    Raises:
        Unverified: something was not answered, or not as it must be.
    """
    directory = Path(tempfile.mkdtemp(prefix="load-", dir=keeper.directory))
    try:
        file = directory / "inputs.lua"
        inputs.as_lua(file)
        argv = [
            *("wrk", "--threads", "1", "--connections", str(load.connections)),
            *("--duration", f"{max(1, round(load.seconds))}s", "--timeout", f"{ANSWER_S}s"),
            *("--script", str(_SCRIPTS / "load.lua"), f"http://{address}", "--"),
            *(str(_SCRIPTS), dialect, load.kind, str(file), str(load.first), str(BULK), str(MIXED_READS)),
        ]
        child = keeper.start(argv, name="wrk", log=directory / "said")
        try:
            code = child.wait(load.seconds + AFTER_S)
        except TimeoutError as error:
            child.kill()
            raise Unverified("wrk has not come to an end in time") from error
        said = child.log.read_text()
    finally:
        shutil.rmtree(directory)
    if code != 0:
        raise Unverified(f"wrk ended with {code}: {said.strip()[-SAID_CHARACTERS:]}")
    return judged(parse(said), load)


def parse(output: str) -> dict[str, Any]:
    """The line for us in what wrk has printed.

    Raises:
        Unverified: there is none.
    """
    lines = [line.removeprefix(_RESULT) for line in output.splitlines() if line.startswith(_RESULT)]
    if len(lines) != 1:
        raise Unverified(f"wrk's script has given no result, but said: {output.strip()[-SAID_CHARACTERS:]}")
    found: dict[str, Any] = json.loads(lines[0])
    return found


def judged(said: dict[str, Any], load: Load) -> Outcome:
    """What wrk's script has said, if it can be believed.

    Raises:
        Unverified: an answer was wrong or did not come, or the numbers do not fit together.
    """
    bad = {name: count for name, count in (said["wrong"] | said["sockets"]).items() if count}
    if bad:
        listed = ", ".join(f"{count} of {name}" for name, count in sorted(bad.items()))
        raise Unverified(f"answers were wrong or missing: {listed}; the first of them: {said['first_wrong']}")
    if said["requests"] == 0:
        raise Unverified("nothing was answered")
    for sent, answered in (("sent", "answered"), ("writes_sent", "writes_answered")):
        under_way = said[sent] - said[answered]
        if not 0 <= under_way <= load.connections:
            raise Unverified(f"{under_way} requests were under way at the end, on {load.connections} connections")
    if abs(said["requests"] - said["answered"]) > load.connections:
        raise Unverified(f"wrk has counted {said['requests']} answers, and its script {said['answered']}")
    return Outcome(
        requests=said["requests"],
        seconds=said["seconds"],
        p50_ms=said["p50_ms"],
        p99_ms=said["p99_ms"],
        longest_ms=said["longest_ms"],
        writes_sent=said["writes_sent"],
        writes_answered=said["writes_answered"],
    )
