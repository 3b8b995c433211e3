"""What was measured, on what machine and with what: as a file, from which reports are made.

Neither the name of the machine nor a path is in it.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.case import Figure

FORMAT = 1
PACKAGES = ("kazoo", "granian", "lmdb", "Flask", "msgspec")
"""Whose versions matter for what is measured."""

COMMAND_S = 10.0


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one case on one system.

    Attributes:
        run: its number, from 1; what has the same number was measured in turn, and is compared.
        unverified: why there are no figures; empty where there are.
    """

    run: int
    system: str
    case: str
    figures: tuple[Figure, ...] = ()
    facts: dict[str, str] = field(default_factory=dict)
    unverified: str = ""


@dataclass
class Results:
    """All of it.

    Attributes:
        titles: by case, what it measures.
        notes: what has to be known of a system.
    """

    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, str]
    titles: dict[str, str]
    notes: list[str] = field(default_factory=list)
    measured: list[Measured] = field(default_factory=list)

    @property
    def verified(self) -> bool:
        """Whether all of it can be believed."""
        return not any(measured.unverified for measured in self.measured)

    def write(self, path: Path) -> None:
        """As JSON; a reader never sees half of it."""
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n")
        beside.replace(path)


def read(path: Path) -> Results:
    """What ``Results.write`` has written.

    Raises:
        ValueError: it is of another format.
    """
    said: dict[str, Any] = json.loads(path.read_text())
    if said.pop("format", None) != FORMAT:
        raise ValueError(f"{path.name} is not of format {FORMAT}: it is from another version of the benchmarks")
    said["measured"] = [
        Measured(**{**one, "figures": tuple(Figure(**figure) for figure in one["figures"])})
        for one in said["measured"]
    ]
    return Results(**said)


def this_machine() -> dict[str, str]:
    """Processor, memory, kernel, and where files are written."""
    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model[1] if model else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "files on": _file_system(Path(tempfile.gettempdir())),
    }


def _file_system(directory: Path) -> str:
    """The type of the file system that a directory is on."""
    found = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, where, kind = line.split()[:3]
        if directory.resolve().is_relative_to(where) and len(where) >= len(found[0]):
            found = (where, kind)
    return found[1]


def tools() -> dict[str, str]:
    """Versions of what every run needs; the systems tell their own."""
    return {
        "Python": platform.python_version(),
        "Java": _said(["java", "-version"], r'version "([^"]+)"'),
        "wrk": _said(["wrk", "--version"], r"wrk (?:debian/)?(\S+)"),
        **{package: metadata.version(package) for package in PACKAGES},
    }


def _said(argv: Sequence[str], pattern: str) -> str:
    """What a command says of its version, on either of its outputs and with any exit code."""
    try:
        done = subprocess.run(  # noqa: S603 - the commands above
            argv, capture_output=True, text=True, timeout=COMMAND_S, check=False
        )
    except FileNotFoundError:
        return "none"
    found = re.search(pattern, done.stdout + done.stderr)
    return found[1] if found else "unknown"
