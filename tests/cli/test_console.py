"""What people see while a command works, and how its results look."""

from pathlib import Path

import pytest

from kvlog.cli import console
from kvlog.cli.console import duration, progress, size, table

from .conftest import on_terminal
from .stores import make_backup


def test_a_terminal_shows_a_bar(tmp_path: Path):
    """And stays clean: the result is on stdout, and the bar is gone at the end."""
    make_backup(tmp_path / "backup")
    result = on_terminal("stderr", "verify", tmp_path / "backup")

    assert result.code == 0, result.err
    assert result.out.endswith("the backup is whole\n")
    assert "unpacking" in result.err
    assert result.err.rstrip().endswith("\x1b[2K")  # the line is erased


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


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (None, "?"),
        (0, "0ms"),
        (999, "999ms"),
        (1_500, "1.5s"),
        (59_940, "59.9s"),
        (60_000, "1m00s"),
        (3_725_000, "62m05s"),
    ],
)
def test_times_are_said_in_one_word(milliseconds: int | None, text: str):
    """So that a table can be cut; what is not known is a question mark."""
    assert duration(milliseconds) == text


def test_a_table_has_one_line_for_each_row():
    """However long; so it can be searched and cut."""
    assert table(("A", "B"), [("long one", "x" * 300), ("s", "")]) == f"A         B\nlong one  {'x' * 300}\ns"
