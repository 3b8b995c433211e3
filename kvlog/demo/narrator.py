"""How the demo speaks: to a terminal, as plain text, or as JSON lines; and what it does with claims."""

from __future__ import annotations

import json
import sys
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from rich.box import Box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from kvlog.ensemble import Say
from kvlog.errors import BadEntry, KvlogError, Unavailable

WIDTH = 80
"""Columns of the text; fewer when the terminal has fewer."""

INDENT = 4

_RULED = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)


class Cell(NamedTuple):
    """A cell of a table; ``style`` is a colour for terminals and never the only bearer of a meaning."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people; programs get the same as a step's data."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that the demo says is so, and whether it is; ``expected`` and ``seen`` say how it is not."""

    text: str
    true: bool
    expected: str
    seen: str


class ClaimFalse(KvlogError):
    """A claim of the demo is false: either kvlog is broken, or the demo is."""

    def __init__(self, claim: Claim) -> None:
        text = f"{claim.text}; expected {claim.expected}, seen {claim.seen}"
        super().__init__(" ".join(text.split()))
        self.claim = claim


class Voice(ABC):
    """Where the story goes. What has to be seen at once is said at once; ``end_step`` has it as a whole."""

    @abstractmethod
    def heading(self, text: str) -> None:
        """A lesson begins."""

    @abstractmethod
    def title(self, text: str) -> None:
        """A step begins."""

    @abstractmethod
    def paragraph(self, text: str) -> None:
        """A few sentences."""

    @abstractmethod
    def listing(self, lines: Sequence[str]) -> None:
        """Commands, or output, as they are."""

    @abstractmethod
    def table(self, table: Table) -> None:
        """A table."""

    @abstractmethod
    def claim(self, claim: Claim) -> None:
        """A claim that was checked."""

    @abstractmethod
    def end_step(self, step: Step) -> None:
        """A step is over, with all its data."""

    @abstractmethod
    def progress(self, text: str) -> None:
        """What goes on meanwhile."""

    @abstractmethod
    def busy(self, text: str) -> AbstractContextManager[Say]:
        """Something that may take over two seconds; further lines may follow while it lasts."""


class TextVoice(Voice):
    """For people: with colours and a spinner on a terminal, else plain text without any escape codes.

    A terminal that knows no escape codes (TERM=dumb) gets plain text, too.
    """

    def __init__(self, *, terminal: bool) -> None:
        terminal = terminal and not Console().is_dumb_terminal
        self._console = _Console(
            force_terminal=terminal,
            color_system="auto" if terminal else None,
            no_color=None if terminal else True,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self._width = min(WIDTH, self._console.width) if terminal else WIDTH
        self._console.width = self._width
        self._terminal = terminal
        self._block = ""

    def _begin(self, block: str) -> None:
        """An empty line before each block, but not between two claims or two lines of progress."""
        if self._block and not (block == self._block and block in ("claim", "progress")):
            self._console.print()
        self._block = block

    def _print(self, text: str, style: str = "") -> None:
        self._console.print(text, style=style, soft_wrap=True)  # it is wrapped already, where it may be

    def heading(self, text: str) -> None:
        """See Voice."""
        self._begin("heading")
        self._print(text.upper(), "bold")
        self._print("=" * min(len(text), self._width), "bold")

    def title(self, text: str) -> None:
        """See Voice."""
        self._begin("title")
        self._print(text, "bold cyan")
        self._print("-" * min(len(text), self._width), "cyan")

    def paragraph(self, text: str) -> None:
        """See Voice."""
        self._begin("paragraph")
        for line in textwrap.wrap(text, self._width, break_on_hyphens=False):
            self._print(line)

    def listing(self, lines: Sequence[str]) -> None:
        """See Voice. Commands, which begin with "$ ", are never broken: whoever copies one needs it whole."""
        self._begin("listing")
        width = self._width - INDENT
        for line in lines:
            command = line.startswith("$ ")
            parts = line.splitlines() if command else textwrap.wrap(line, width, break_on_hyphens=False)
            for part in parts:
                self._print(" " * INDENT + part, "cyan" if command else "dim")

    def table(self, table: Table) -> None:
        """See Voice."""
        self._begin("table")
        ruled = RichTable(box=_RULED, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
        for column in table.columns:
            ruled.add_column(column)
        for row in table.rows:
            ruled.add_row(*(Text(cell.text, cell.style) for cell in row))
        padded = Padding(ruled, (0, 0, 0, 2), expand=False)
        if self._terminal:
            self._console.print(padded)
            return
        with self._console.capture() as drawn:
            self._console.print(padded)
        for line in drawn.get().splitlines():
            self._print(line.rstrip())

    def claim(self, claim: Claim) -> None:
        """See Voice."""
        self._begin("claim")
        mark, style = ("[checked] ", "green") if claim.true else ("[FALSE]   ", "bold red")
        lines = textwrap.wrap(claim.text, self._width - len(mark), break_on_hyphens=False)
        for number, line in enumerate(lines):
            prefix = Text(" " * len(mark) if number else mark, style)
            self._console.print(prefix.append(line, "default"), soft_wrap=True)

    def end_step(self, step: Step) -> None:
        """See Voice. All has been said."""

    @contextmanager
    def busy(self, text: str) -> Iterator[Say]:
        """See Voice."""
        if not self._terminal:
            self.progress(text)
            yield self.progress
            return
        with self._console.status(text, spinner="line"):
            yield self.progress

    def progress(self, text: str) -> None:
        """See Voice."""
        self._begin("progress")
        for line in text.splitlines():
            for part in textwrap.wrap(f"... {line}", self._width, subsequent_indent="    "):
                self._print(part, "dim")


class _Console(Console):
    """A console that says when nobody listens any more; rich's own ends the process with exit code 1 then."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


class JsonVoice(Voice):
    """For programs: each step is one line of JSON on stdout. Progress goes to stderr."""

    def heading(self, text: str) -> None:
        """See Voice. The steps' names begin with their lesson's."""

    def title(self, text: str) -> None:
        """See Voice."""

    def paragraph(self, text: str) -> None:
        """See Voice."""

    def listing(self, lines: Sequence[str]) -> None:
        """See Voice."""

    def table(self, table: Table) -> None:
        """See Voice."""

    def claim(self, claim: Claim) -> None:
        """See Voice."""

    def end_step(self, step: Step) -> None:
        """See Voice."""
        claims = [
            {"claim": claim.text, "true": claim.true}
            | ({} if claim.true else {"expected": claim.expected, "seen": claim.seen})
            for claim in step.claims
        ]
        line = {"step": step.name, "say": "\n".join(step.said), "data": step.data, "claims": claims}
        print(json.dumps(line), flush=True)  # noqa: T201 - this is what --json is for

    @contextmanager
    def busy(self, text: str) -> Iterator[Say]:
        """See Voice."""
        self.progress(text)
        yield self.progress

    def progress(self, text: str) -> None:
        """See Voice."""
        sys.stderr.write(f"... {text}\n")


@dataclass
class Step:
    """One step of the story: what was said, shown and claimed. Made by ``Narrator.step``."""

    voice: Voice
    name: str
    said: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Say a paragraph."""
        self.said.append(text)
        self.voice.paragraph(text)

    def check(self, text: str, *, expected: object, seen: object) -> None:
        """Claim that ``text`` is so: which it is if ``seen`` equals ``expected``.

        Raises:
            ClaimFalse: it is not.
        """
        self.claim(text, seen == expected, expected=str(expected), seen=str(seen))

    def claim(self, text: str, true: bool, *, expected: str, seen: str) -> None:
        """Claim that ``text`` is so.

        Raises:
            ClaimFalse: it is not.
        """
        claim = Claim(text, true, expected, seen)
        self.claims.append(claim)
        self.voice.claim(claim)
        if not true:
            raise ClaimFalse(claim)


class Narrator:
    """Tells the steps one after the other, and keeps what has been explained before from being said again.

    ``claims`` is the number of claims that were checked.
    """

    def __init__(self, voice: Voice) -> None:
        self.voice = voice
        self.claims = 0
        self._prefix = ""
        self._steps = 0
        self._explained: set[str] = set()

    def lesson(self, name: str, title: str) -> None:
        """Begin a lesson; ``name`` becomes the prefix of its steps' names."""
        self._prefix = f"{name}."
        self.voice.heading(title)

    def end_lesson(self) -> None:
        """What follows belongs to no lesson."""
        self._prefix = ""

    @contextmanager
    def step(self, name: str, title: str, *, promise: str) -> Iterator[Step]:
        """One step. ``promise`` is the claim that is false if something does not answer in time in it.

        Raises:
            ClaimFalse: one of its claims is, or the promise.
        """
        self._steps += 1
        self.voice.title(f"{self._steps}. {title}")
        step = Step(self.voice, self._prefix + name)
        try:
            try:
                yield step
            except (Unavailable, BadEntry) as error:
                reason, *details = str(error).splitlines() or [type(error).__name__]
                if details:
                    step.data["details"] = details
                    self.voice.listing(details)
                step.claim(promise, False, expected="an answer in time", seen=reason)
        except ClaimFalse:
            self.voice.end_step(step)
            raise
        self.claims += len(step.claims)
        self.voice.end_step(step)

    def explain(self, step: Step, text: str, *, again: str = "") -> None:
        """Say a paragraph that need not be said twice; ``again`` is what is said instead the second time."""
        if text not in self._explained:
            self._explained.add(text)
            step.say(text)
        elif again:
            step.say(again)
