"""What a command shows to people: lines, tables without wrapping, and how far it has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

LINE_EVERY_S = 5.0
"""How often a line says how far it has come, where no bar can be drawn."""

Report = Callable[[int, int], None]
"""Takes how much is done, and how much there is in all; 0 if that is not known."""


def say(text: str) -> None:
    """A line of the result, on stdout."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """A line for people on stderr: what goes on, or what they should know."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def document(value: object) -> None:
    """A result for programs: one JSON document on stdout."""
    say(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def fields(*pairs: tuple[str, object]) -> None:
    """Names and values, one line each, values below each other."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        say(f"{name:{width}}  {value}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows with their columns below each other, one line each, however long: they can be cut and searched."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = (
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in (head, *rows)
    )
    return "\n".join(line.rstrip() for line in lines)


def drawn(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], below: Sequence[str]) -> None:
    """A table for a terminal, on stdout, and what else is to be said, in sentences of any length.

    Each row is its style, which never says anything alone, and its cells.
    """
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in head:
        shown.add_column(name, no_wrap=True)
    for style, cells in rows:
        shown.add_row(*(Text(cell) for cell in cells), style=style)
    console = Console(highlight=False)
    console.print(shown)
    if below:
        console.print()
    for text in below:
        console.print(Text(text))


def size(count: int) -> str:
    """A number of bytes as people say it."""
    amount = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:  # noqa: PLR2004 - the step between two units
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def duration(milliseconds: int | None) -> str:
    """A time as people say it, in one word; "?" if it is not known."""
    if milliseconds is None:
        return "?"
    if milliseconds < 1000:  # noqa: PLR2004 - a second
        return f"{milliseconds}ms"
    seconds = milliseconds / 1000
    return f"{seconds:.1f}s" if seconds < 60 else f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"  # noqa: PLR2004


@contextmanager
def progress(what: str, unit: Callable[[int], str] = str) -> Iterator[Report]:
    """Show how far ``what`` has come: a bar on a terminal, else a line every few seconds.

    ``unit`` says an amount in words. Nothing stays on a terminal afterwards.
    """
    if not sys.stderr.isatty():
        yield _Lines(what, unit)
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bars:
        task = bars.add_task(what, total=None, amount="")

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total or None, amount=unit(done))

        yield report


class _Lines:
    """Progress where nobody can draw: in files, pipes and logs of other programs."""

    def __init__(self, what: str, unit: Callable[[int], str]) -> None:
        self._what = what
        self._unit = unit
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now - self._said >= LINE_EVERY_S:
            self._said = now
            of = f" of {self._unit(total)}" if total else ""
            note(f"{self._what}: {self._unit(done)}{of}")
