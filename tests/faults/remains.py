"""All that a run leaves behind, in memory and in a directory: what the checkers and the report are given."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.checkers.liveness import Resources
from tests.faults.observer import Sample, read_samples, save_samples
from tests.faults.operations import Delivery, Ended, Evidence, read_history
from tests.faults.rounds import Round
from tests.faults.tap import read_log, save_log

HISTORY, LOG, DELIVERIES, WATCHERS = "history.jsonl", "log.jsonl", "deliveries.jsonl", "watchers.jsonl"
SAMPLES, ROUNDS, RUN = "samples.jsonl", "rounds.jsonl", "run.json"
LOGS = "logs"
"""The directory of the nodes' own logs."""


@dataclass(slots=True)
class Course:
    """How a run went.

    Attributes:
        seed, kinds, clients: what was asked for.
        began: when, by the calendar.
        first_ns, last_ns: when its load began, and when the last reads were done, on the monotonic clock.
        nodes: their addresses.
        statuses: what each node said of itself at the end, once all agreed or had had time to.
        before, after: what was in use before the load began, and at the end.
        exits: of nodes' processes, as far as anybody looked: the address and the code, minus the signal.
        moves: how often a watcher went on at another node.
        late: what had not come about in its time at the end: the number of an invariant, and a sentence, for each.
        invalid: why this run shows nothing, in sentences.
    """

    seed: int
    kinds: tuple[str, ...]
    clients: int
    began: str
    nodes: tuple[str, ...]
    first_ns: int = 0
    last_ns: int = 0
    statuses: list[dict[str, Any]] = field(default_factory=list)
    before: Resources | None = None
    after: Resources | None = None
    exits: list[tuple[str, int]] = field(default_factory=list)
    moves: int = 0
    late: list[tuple[str, str]] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Remains:
    """What is looked at once a run is over. ``logs``: the directory with the nodes' logs."""

    course: Course
    evidence: Evidence
    rounds: tuple[Round, ...]
    samples: tuple[Sample, ...]
    logs: Path


def save(remains: Remains, directory: Path) -> None:
    """Write everything into a directory; the history is there already, from the run itself."""
    evidence = remains.evidence
    save_log(list(evidence.log), directory / LOG)
    save_samples(remains.samples, directory / SAMPLES)
    _save_lines(evidence.deliveries, directory / DELIVERIES)
    _save_lines(evidence.watchers, directory / WATCHERS)
    _save_lines(remains.rounds, directory / ROUNDS)
    (directory / RUN).write_text(json.dumps(asdict(remains.course), indent=1, default=str) + "\n")


def load(directory: Path) -> Remains:
    """What ``save`` has written."""
    course = json.loads((directory / RUN).read_text())
    for name in ("before", "after"):
        course[name] = Resources(**course[name]) if course[name] else None
    return Remains(
        Course(**course),
        Evidence(
            tuple(sorted(read_history(directory / HISTORY), key=lambda each: each.invoked_ns)),
            tuple(read_log(directory / LOG)),
            tuple(Delivery(**fields) for fields in _read_lines(directory / DELIVERIES)),
            tuple(Ended(**fields) for fields in _read_lines(directory / WATCHERS)),
        ),
        tuple(Round(**fields) for fields in _read_lines(directory / ROUNDS)),
        tuple(read_samples(directory / SAMPLES)),
        directory / LOGS,
    )


def _save_lines(items: Iterable[Any], path: Path) -> None:
    with path.open("w") as file:
        for item in items:
            file.write(json.dumps(asdict(item)) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    with path.open() as file:
        return [json.loads(line) for line in file]
