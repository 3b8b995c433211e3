"""The report of a run: one page that needs nothing else, and the same totals for programs."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path

from tests.faults.checks import Verdict
from tests.faults.observer import spans
from tests.faults.operations import Operation, Outcome
from tests.faults.remains import Remains
from tests.faults.rounds import Round

PAGE, TOTALS = "report.html", "report.json"

WIDTH, LEFT, ROW, BAR = 1100, 150, 19, 15
"""Of the picture, in pixels: all of it, the names at its left, a row, and what is drawn in one."""

PLOT = 110
"""The height of the plot of operations."""

SHOWN = 20
"""Violations of each checker that the page shows; report.json has them all."""

COLORS = {Outcome.OK: "#4c9f70", Outcome.FAILED: "#8fb8de", Outcome.REFUSED: "#e9c46a", Outcome.UNKNOWN: "#d1495b"}
ROLES = {"leader": "#2f6690", "": "#d9d9d9", "follower": "#b9d6c2"}
OTHER_ROLE = "#f0dfa6"


@dataclass(frozen=True, slots=True)
class Times:
    """Some times in seconds: how many, the middle one and the longest."""

    count: int
    median: float
    longest: float

    @classmethod
    def of(cls, times: Iterable[float]) -> Times:
        """Those of a list, which may be empty."""
        found = list(times)
        return cls(len(found), statistics.median(found), max(found)) if found else cls(0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Totals:
    """What a run comes to.

    Attributes:
        minutes: from the load's begin to the last reads.
        operations: by outcome. by_workload: the same for each.
        faults: how often each kind was injected, and how long after its end the first write on a node took.
        first_writes: the same over all.
        leader_changes: epochs in the log, but for the first one.
        checkers: how many violations each has found. notes: what they could not decide.
    """

    seed: int
    began: str
    minutes: float
    clients: int
    operations: dict[str, int]
    by_workload: dict[str, dict[str, int]]
    under_ids: int
    slowest_s: float
    entries: int
    revisions: int
    leader_changes: int
    faults: dict[str, Times]
    rounds: int
    first_writes: Times
    watchers: int
    watcher_moves: int
    changes_told: int
    checkers: dict[str, int]
    notes: dict[str, str]
    invalid: list[str]

    @property
    def violations(self) -> int:
        """Of all checkers."""
        return sum(self.checkers.values())

    @property
    def sentence(self) -> str:
        """All of it in short."""
        counted = ", ".join(f"{count} {name}" for name, count in self.operations.items())
        return (
            f"{self.minutes:.1f} minutes, {self.rounds} rounds of faults, {self.leader_changes} changes of "
            f"leader; {counted}; {self.violations} violations."
        )


def totals_of(remains: Remains, verdicts: Sequence[Verdict]) -> Totals:
    """The totals of a run."""
    evidence, course = remains.evidence, remains.course
    workloads = sorted({each.workload for each in evidence.operations})
    kinds = sorted({name for each in remains.rounds for name in each.names})
    finished = [each for each in evidence.operations if each.returned_ns is not None]
    log = evidence.log
    return Totals(
        seed=course.seed,
        began=course.began,
        minutes=round((course.last_ns - course.first_ns) / 60e9, 2),
        clients=course.clients,
        operations=_by_outcome(evidence.operations),
        by_workload={
            name: _by_outcome(each for each in evidence.operations if each.workload == name) for name in workloads
        },
        under_ids=sum(bool(each.request_id) for each in evidence.operations),
        slowest_s=round(max((took_s(each) for each in finished), default=0.0), 3),
        entries=len(log),
        revisions=log[-1].entry.last_revision - log[0].entry.first_revision + 1 if log else 0,
        leader_changes=max(0, len({each.entry.epoch for each in log}) - 1),
        faults={kind: _times([each for each in remains.rounds if kind in each.names]) for kind in kinds},
        rounds=len(remains.rounds),
        first_writes=_times(remains.rounds),
        watchers=len(evidence.watchers),
        watcher_moves=course.moves,
        changes_told=len(evidence.deliveries),
        checkers={verdict.checker: len(verdict.violations) for verdict in verdicts},
        notes={verdict.checker: verdict.note for verdict in verdicts if verdict.note},
        invalid=course.invalid,
    )


def took_s(operation: Operation) -> float:
    """How long a finished operation took."""
    return ((operation.returned_ns or operation.invoked_ns) - operation.invoked_ns) / 1e9


def _by_outcome(operations: Iterable[Operation]) -> dict[str, int]:
    counts = Counter(each.outcome for each in operations)
    return {outcome.value: counts[outcome] for outcome in Outcome}


def _times(rounds: Iterable[Round]) -> Times:
    return Times.of(round(each, 2) for one in rounds for each in one.writes_s.values() if each is not None)


def write_report(remains: Remains, verdicts: Sequence[Verdict], out: Path) -> Totals:
    """Write report.html and report.json; the totals."""
    totals = totals_of(remains, verdicts)
    violations = [
        {"checker": verdict.checker, **asdict(violation)}
        for verdict in verdicts
        for violation in verdict.violations
    ]
    found = {**asdict(totals), "violations": violations}
    (out / TOTALS).write_text(json.dumps(found, indent=1, default=str) + "\n")
    (out / PAGE).write_text(page(remains, verdicts, totals))
    return totals


# --- the page -------------------------------------------------------------------------------------------------

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1140px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em }
table { border-collapse: collapse; margin: .5em 0 } td, th { padding: .2em .9em .2em 0; text-align: left;
vertical-align: top; border-bottom: 1px solid #e5e5e5 } td.n { text-align: right }
svg { display: block; font: 12px system-ui, sans-serif }
.good { color: #2d7a4b } .bad { color: #b3202c; font-weight: 600 }
code, pre { font-size: 13px } pre { white-space: pre-wrap; background: #f6f6f6; padding: .6em }
.key span { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 1em; vertical-align: -1px }
"""


def page(remains: Remains, verdicts: Sequence[Verdict], totals: Totals) -> str:
    """The page, whole."""
    state = "bad" if totals.violations or totals.invalid else "good"
    heading = f"A run under faults: {totals.violations} violations" if totals.violations else "A run under faults"
    parts = [
        f"<h1>{escape(heading)}</h1>",
        f'<p class="{state}">{escape(totals.sentence)}</p>',
        *(f'<p class="bad">This run shows nothing: {escape(reason)}</p>' for reason in totals.invalid),
        "<h2>What happened when</h2>",
        picture(remains),
        _legend(),
        "<h2>Checkers</h2>",
        _checkers(verdicts),
        *_violations(verdicts),
        "<h2>Totals</h2>",
        _numbers(totals),
        "<h2>Operations</h2>",
        table(
            ["", *Outcome],
            [
                [name, *counts.values()]
                for name, counts in (*totals.by_workload.items(), ("all", totals.operations))
            ],
        ),
        "<h2>Faults</h2>",
        "<p>How often each was injected, and from its end to the first write on each node, in seconds.</p>",
        _faults(remains, totals),
        "<h2>Rounds</h2>",
        _rounds(remains),
    ]
    head = f'<meta charset="utf-8"><title>{escape(heading)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers stand at the right."""

    def cell(value: object) -> str:
        kind = ' class="n"' if isinstance(value, int | float) else ""
        return f"<td{kind}>{escape(str(value))}</td>"

    head = "".join(f"<th>{escape(str(each))}</th>" for each in heads)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>\n" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}</table>"


def _checkers(verdicts: Sequence[Verdict]) -> str:
    rows = [
        [each.checker, f"{len(each.violations)} violations" if each.violations else "nothing", each.note,
         f"{each.took_s:.1f} s"]
        for each in verdicts
    ]  # fmt: skip
    return table(["checker", "has found", "", "in"], rows)


def _violations(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        for violation in verdict.violations[:SHOWN]:
            yield f'<p class="bad">{violation.invariant} ({escape(verdict.checker)}): {escape(violation.what)}</p>'
            if violation.operations:
                yield f"<pre>{escape(chr(10).join(map(str, violation.operations)))}</pre>"
        if (more := len(verdict.violations) - SHOWN) > 0:
            yield f"<p>{escape(verdict.checker)} has found {more} more; they are in {TOTALS}.</p>"


def _numbers(totals: Totals) -> str:
    first = totals.first_writes
    return table(
        ["", ""],
        [
            ["began", totals.began],
            ["seed", str(totals.seed)],
            ["clients", totals.clients],
            ["operations", sum(totals.operations.values())],
            ["of these, under an Idempotency-Key", totals.under_ids],
            ["slowest answered operation, s", totals.slowest_s],
            ["entries of the log", totals.entries],
            ["revisions", totals.revisions],
            ["changes of leader", totals.leader_changes],
            [
                "from a fault's end to a node's first write, s: median, longest",
                f"{first.median:g}, {first.longest:g}",
            ],
            ["watchers; times that one went on elsewhere", f"{totals.watchers}; {totals.watcher_moves}"],
            ["changes that they were told", totals.changes_told],
        ],
    )


def _faults(remains: Remains, totals: Totals) -> str:
    counts = Counter(name for each in remains.rounds for name in each.names)
    rows = [[name, counts[name], times.median, times.longest] for name, times in totals.faults.items()]
    return table(["fault", "times", "median", "longest"], rows)


def _rounds(remains: Remains) -> str:
    first_ns = remains.course.first_ns

    def row(each: Round) -> list[object]:
        wrote = ", ".join("never" if took is None else f"{took:.1f}" for took in each.writes_s.values())
        lasted_s = (each.healed_ns - each.injected_ns) / 1e9
        at = f"{(each.injected_ns - first_ns) / 1e9:.0f} s"
        return [at, " and ".join(each.names), "; ".join(each.said), f"{lasted_s:.1f} s", wrote, each.broken]

    return table(["at", "fault", "what was done", "for", "first writes, s", ""], map(row, remains.rounds))


# --- the picture ----------------------------------------------------------------------------------------------


class _Scale:
    """From times to places in the picture."""

    def __init__(self, first_ns: int, last_ns: int) -> None:
        self.first_ns, self.last_ns = first_ns, max(last_ns, first_ns + 1)

    def x(self, at_ns: int) -> float:
        part = (at_ns - self.first_ns) / (self.last_ns - self.first_ns)
        return LEFT + min(1.0, max(0.0, part)) * (WIDTH - LEFT)

    @property
    def seconds(self) -> float:
        return (self.last_ns - self.first_ns) / 1e9


def picture(remains: Remains) -> str:
    """Faults, who led, and what came of operations, over time."""
    scale = _Scale(remains.course.first_ns, remains.course.last_ns)
    parts: list[str] = []
    y = 4
    for name in dict.fromkeys(name for each in remains.rounds for name in each.names):
        parts.append(_label(name, y))
        parts += [_fault(scale, each, name, y) for each in remains.rounds if name in each.names]
        y += ROW
    y += 8
    for node in remains.course.nodes:
        parts.append(_label(node, y))
        for span in spans(each for each in remains.samples if each.node == node):
            role = f"{node}: {span.role or 'no answer'}"
            color = ROLES.get(span.role, OTHER_ROLE)
            parts.append(_bar(scale, span.first_ns, span.last_ns, y, color, role))
        y += ROW
    y += 8
    parts.append(_plot(scale, remains.evidence.operations, y))
    y += PLOT
    parts.append(_axis(scale, y))
    size = f'viewBox="0 0 {WIDTH + 10} {y + 24}" width="100%"'
    title = "Timeline of faults, leaders and operations"
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{title}">{"".join(parts)}</svg>'


def _label(text: str, y: int) -> str:
    return f'<text x="{LEFT - 8}" y="{y + BAR - 3}" text-anchor="end">{escape(text)}</text>'


def _bar(scale: _Scale, first_ns: int, last_ns: int, y: int, color: str, title: str) -> str:
    x = scale.x(first_ns)
    width = max(1.0, scale.x(last_ns) - x)
    place = f'x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}"'
    return f'<rect {place} fill="{color}"><title>{escape(title)}</title></rect>'


def _fault(scale: _Scale, each: Round, name: str, y: int) -> str:
    lasted_s = (each.healed_ns - each.injected_ns) / 1e9
    said = dict(zip(each.names, each.said, strict=False)).get(name, "it could not be injected")
    title = f"{name}, {lasted_s:.1f} s: {said}"
    return _bar(scale, each.injected_ns, each.healed_ns, y, "#7a4b94", title)


def _plot(scale: _Scale, operations: Sequence[Operation], y: int) -> str:
    """Operations per second by outcome, one above the other."""
    slices = min(WIDTH - LEFT, max(1, round(scale.seconds)))
    counts: list[Counter[Outcome]] = [Counter() for _ in range(slices)]
    for each in operations:
        place = int((each.invoked_ns - scale.first_ns) / (scale.last_ns - scale.first_ns) * slices)
        if 0 <= place < slices:
            counts[place][each.outcome] += 1
    most = max(max((count.total() for count in counts), default=0), 1)
    width = (WIDTH - LEFT) / slices
    parts = [_label(f"{most * slices / scale.seconds:.0f}/s", y - 4), _label("0", y + PLOT - BAR)]
    for outcome in Outcome:
        steps = list(_steps(counts, outcome, y, width, most))
        parts.append(f'<path d="{" ".join(steps)}" fill="{COLORS[outcome]}"/>')
    return "".join(parts)


def _steps(
    counts: Sequence[Mapping[Outcome, int]], outcome: Outcome, y: int, width: float, most: int
) -> Iterator[str]:
    """The outline of one outcome's part of each slice."""
    below = list(Outcome)[: list(Outcome).index(outcome)]
    for place, count in enumerate(counts):
        if not count[outcome]:
            continue
        x, under = LEFT + place * width, sum(count[each] for each in below)
        bottom, top = (y + PLOT * (1 - part / most) for part in (under, under + count[outcome]))
        yield f"M{x:.1f} {bottom:.1f}V{top:.1f}H{x + width:.1f}V{bottom:.1f}Z"


def _axis(scale: _Scale, y: int) -> str:
    every = next((each for each in (5, 10, 30, 60, 120, 300, 600) if scale.seconds / each <= 15), 1800)
    parts = [f'<path d="M{LEFT} {y}H{WIDTH}" stroke="#999"/>']
    for second in range(0, int(scale.seconds) + 1, every):
        x = scale.x(scale.first_ns + second * 10**9)
        text = f"{second} s" if every < 60 else f"{second // 60} min"
        parts.append(f'<path d="M{x:.1f} {y}v5" stroke="#999"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 18}" text-anchor="middle">{text}</text>')
    return "".join(parts)


def _legend() -> str:
    roles = {"leads": ROLES["leader"], "follows": ROLES["follower"], "neither": OTHER_ROLE, "no answer": ROLES[""]}
    shown = {**roles, **{f"{outcome.value} operations": color for outcome, color in COLORS.items()}}
    marks = "".join(f'<span style="background:{color}"></span>{escape(text)}' for text, color in shown.items())
    return f'<p class="key">{marks}</p>'
