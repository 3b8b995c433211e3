"""What people see while a command works, and how its results look."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from kvlog.cli import console
from kvlog.cli.console import progress, size, table

from .conftest import ROOT
from .stores import make_backup


def test_a_terminal_shows_a_bar(tmp_path: Path):
    """And stays clean: the result is on stdout, and the bar is gone at the end."""
    make_backup(tmp_path / "backup")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        command = [sys.executable, "-m", "kvlog", "verify", str(tmp_path / "backup")]
        environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs, env=environment)
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = terminal.read(4096)
            except OSError:  # EIO: the last one that had it open is gone
                break
            if not part:
                break
            shown += part
        out, _ = process.communicate(timeout=30)

    assert process.returncode == 0, shown
    assert out.endswith(b"the backup is whole\n")
    assert b"unpacking" in shown
    assert shown.rstrip().endswith(b"\x1b[2K")  # the line is erased


def test_elsewhere_a_line_says_how_far_it_has_come(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Every few seconds, not at each step."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with progress("unpacking", size) as report:
        for second in range(12):
            now[0] = float(second)
            report(second * 1024, 12 * 1024)

    assert capsys.readouterr().err == "unpacking: 5.0 KiB of 12.0 KiB\nunpacking: 10.0 KiB of 12.0 KiB\n"


def test_a_total_that_is_not_known_is_not_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """0 stands for it."""
    monkeypatch.setattr(console, "LINE_EVERY_S", 0.0)
    with progress("checking") as report:
        report(7, 0)

    assert capsys.readouterr().err == "checking: 7\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1.0 KiB"), (5 * 1024**3, "5.0 GiB"), (1 << 50, "1024.0 TiB")],
)
def test_sizes_are_said_in_units(count: int, text: str):
    """Of 1,024 each."""
    assert size(count) == text


def test_a_table_has_one_line_for_each_row():
    """However long; so it can be searched and cut."""
    assert table(("A", "B"), [("long one", "x" * 300), ("s", "")]) == f"A         B\nlong one  {'x' * 300}\ns"
