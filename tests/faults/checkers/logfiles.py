"""What nodes have written: no traceback and no end by an exception, but where one was asked for (I15)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from kvlog.errors import InvariantViolation, Stuck
from tests.faults.checkers.violation import Violation

FAILPOINT = r"an exception was asked for"
"""What the exceptions of failpoints say (kvlog.failpoints)."""

BAD_EXITS = (InvariantViolation.exit_code, Stuck.exit_code)
"""Exit codes by which a node says that there is a bug in it."""

_BEGINS = "Traceback (most recent call last):"
_LINES = re.compile(
    r"Exception in thread|Exception ignored in|Fatal Python error|Segmentation fault|was never awaited"
    r"|exception was never retrieved|a bug in kvlog|panicked at"
)
_LAST = re.compile(r"^server\.py: .*$", re.MULTILINE)
"""The last line of a process that ends by itself."""

_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_SHOWN = 2_000


def check(
    logs: Mapping[str, str],
    *,
    exits: Mapping[str, Sequence[int]] | None = None,
    allowed: Sequence[str] = (FAILPOINT,),
) -> list[Violation]:
    """Tracebacks and their like in the logs of nodes, by name, that match none of the allowed patterns.

    ``exits``: the exit codes of their processes. One that tells of a bug is allowed as often as an allowed
    traceback is in the log of the same node.
    """
    patterns = [re.compile(pattern) for pattern in allowed]
    violations = []
    for node, text in logs.items():
        last_lines = sum(any(pattern.search(line) for pattern in patterns) for line in _LAST.findall(text))
        meant = 0
        for report in reports(text):
            if any(pattern.search(report) for pattern in patterns):
                meant += report.startswith(_BEGINS)
            else:
                violations.append(Violation("I15", f"{node} has written: {report[-_SHOWN:]}"))
        bad = [code for code in (exits or {}).get(node, ()) if code in BAD_EXITS]
        meant = max(meant, last_lines)  # some ways out need no traceback
        if len(bad) > meant:
            what = f"{len(bad)} times with {sorted(set(bad))}, and {meant} exceptions were meant"
            violations.append(Violation("I15", f"{node} has ended by a bug: {what}"))
    return violations


def reports(text: str) -> Iterator[str]:
    """Each traceback, with those that led to it, and each line that tells of an exception in another way."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        begin = number
        number += 1
        if _BEGINS in line:
            number = _end_of_traceback(lines, number)
            yield "\n".join([line[line.index(_BEGINS) :], *lines[begin + 1 : number]])
        elif _LINES.search(line):
            yield line


def _end_of_traceback(lines: Sequence[str], number: int) -> int:
    """Behind the line with the exception, of the last one of a chain."""
    while number < len(lines) and (not lines[number].strip() or lines[number][0] in " \t"):
        number += 1
    number += 1  # the exception itself
    rest = [line for line in lines[number : number + 4] if line.strip()]
    if rest and rest[0].startswith(_CHAINED):
        while number < len(lines) and _BEGINS not in lines[number]:
            number += 1
        return _end_of_traceback(lines, number + 1)
    return number
