"""A report in Markdown from results.

Each figure is the median of several runs, with the lowest and the highest. Beside it stands its ratio to the same
figure of a peer: that of each run is taken to the peer's in the same run, and the median of these is shown.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from bench.case import Figure
from bench.results import Measured, Results

PEER = "etcd"
_PERCENTILE = re.compile(r"(.*): (p50|p99)")
_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of one system over all runs.

    Attributes:
        values: by run.
        ratio: to the peer; None for the peer itself and where it has no such figure.
        percentiles: medians by name, in milliseconds.
    """

    figure: Figure
    system: str
    values: dict[int, float]
    ratio: float | None
    percentiles: dict[str, float]

    @property
    def median(self) -> float:
        """Of all runs."""
        return statistics.median(self.values.values())


def lines(results: Results, case: str) -> list[Line]:
    """The figures of a case in the order in which they were measured, by figure and then by system.

    A system of which one run was not verified has none.
    """
    of_case = [measured for measured in results.measured if measured.case == case]
    bad = {measured.system for measured in of_case if measured.unverified}
    values: dict[str, dict[str, dict[int, float]]] = {}
    figures: dict[str, Figure] = {}
    for measured in of_case:
        if measured.system in bad:
            continue
        for figure in measured.figures:
            figures.setdefault(figure.name, figure)
            values.setdefault(figure.name, {}).setdefault(measured.system, {})[measured.run] = figure.value
    found = []
    for name, like in figures.items():
        if _PERCENTILE.fullmatch(name):
            continue
        peer = values[name].get(PEER, {})
        for system, by_run in values[name].items():
            ratios = [value / peer[run] for run, value in by_run.items() if peer.get(run)]
            percentiles = {
                which: statistics.median(values[f"{name}: {which}"][system].values())
                for which in ("p50", "p99")
                if system in values.get(f"{name}: {which}", {})
            }
            ratio = statistics.median(ratios) if ratios and system != PEER else None
            found.append(Line(like, system, by_run, ratio, percentiles))
    order = list(dict.fromkeys(measured.system for measured in results.measured if measured.run == 1))
    names = list(figures)
    return sorted(found, key=lambda line: (names.index(line.figure.name), order.index(line.system)))


def markdown(results: Results, plots: dict[str, list[str]]) -> str:
    """All of it; ``plots``: file names by case."""
    return "\n".join(_parts(results, plots)) + "\n"


def _parts(results: Results, plots: dict[str, list[str]]) -> Iterator[str]:
    yield "# Results"
    yield ""
    runs = max((measured.run for measured in results.measured), default=0)
    yield (
        f"Medians of {_counted(runs, 'run')}, in each of which all systems were measured in turn; in parentheses"
        f" the lowest and the highest. *To {PEER}* is the median of the ratios to {PEER} in the same run, because"
        " the machine is not equally fast at all times. Where one run of a system could not be verified, it has no"
        " figures in that case."
    )
    yield ""
    for title, table in (("Machine", results.machine), ("Versions", results.versions), ("Run", results.settings)):
        yield f"- {title}: " + "; ".join(f"{name} {value}" for name, value in table.items())
    yield from (f"- {note}" for note in results.notes)
    for case, title in results.titles.items():
        of_case = [measured for measured in results.measured if measured.case == case]
        if of_case:
            yield ""
            yield f"## {case.capitalize()}"
            yield ""
            yield title
            yield ""
            yield from _table(lines(results, case))
            yield from _below(of_case)
            yield from (f"\n![{name.removesuffix('.svg')}]({name})" for name in plots.get(case, []))


def _table(found: list[Line]) -> Iterator[str]:
    if not found:
        return
    yield f"| | | median | | to {PEER} | time of a request |"
    yield "| --- | --- | ---: | --- | ---: | ---: |"
    before = ""
    for line in found:
        name, before = ("" if line.figure.name == before else line.figure.name), line.figure.name
        unit = line.figure.unit
        shown = f"{number(line.median)} {unit}".rstrip()
        spread = f"({number(min(line.values.values()))} to {number(max(line.values.values()))})"
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        times = ", ".join(f"{which} {number(value)} ms" for which, value in line.percentiles.items())
        yield f"| {name} | {line.system} | {shown} | {spread} | {ratio} | {times} |"


def _below(of_case: list[Measured]) -> Iterator[str]:
    """What was not verified, and the facts, with what they were in the single runs where they differ."""
    said = [
        f"**{measured.system}: not verified** in run {measured.run}, and therefore without figures:"
        f" {measured.unverified}"
        for measured in of_case
        if measured.unverified
    ]
    bad = {measured.system for measured in of_case if measured.unverified}
    facts: dict[tuple[str, str], dict[str, None]] = {}
    for measured in of_case:
        if measured.system not in bad:
            for name, fact in measured.facts.items():
                facts.setdefault((measured.system, name), {})[fact] = None
    told = [f"{system}: {name}: {'; '.join(different)}" for (system, name), different in facts.items()]
    if said or told:
        yield ""
        yield from (f"- {line}" for line in said + told)


def number(value: float) -> str:
    """As many digits as mean something."""
    if value >= 10 ** (_DIGITS - 1):
        return f"{value:,.0f}"
    return f"{value:.{_DIGITS}g}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
