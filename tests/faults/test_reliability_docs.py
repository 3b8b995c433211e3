"""docs/reliability.md has every fault of the list once, and each test that it names is there."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "reliability.md"

ROWS = {
    "Process and pause": "F1 F2 F3 F4 F5 F6 F7 F8 F9 F10 F11 F12 F13 F14",
    "ZooKeeper and its connection": ("F15 F16 F17 F18 F19 F19b F19c F19d F19e F19f F19g F19h F19i F19j F19k"),
    "Log content": "F25 F26 F27 F28 F29 F30 F31 F32 F33",
    "Replication and snapshots": "F34 F35 F36 F37 F38 F39 F40 F41 F42",
    "Local store": "F20 F21 F22 F23 F24 F24b F24c",
    "Clock": "F43 F44",
    "HTTP input": "F45 F46 F47 F48 F49 F50 F51 F52 F53 F54 F55",
}
"""The fault list: the rows of each part of it."""

COLUMNS = ["row", "fault", "promise", "shown by"]
REASON_CHARACTERS = 30
"""A shorter text in place of a test is no reason."""

_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_PATH = re.compile(r"`(tests/[\w/.]+)`")


@cache
def parts() -> dict[str, list[list[str]]]:
    """The tables below "Faults, and the tests that cover them": the cells of each row, by the part's title."""
    _, _, faults = PAGE.read_text().partition("\n## Faults, and the tests that cover them\n")
    faults = faults.partition("\n## ")[0]
    found: dict[str, list[list[str]]] = {}
    for part in faults.split("\n### ")[1:]:
        title, _, text = part.partition("\n")
        lines = [line for line in text.splitlines() if line.startswith("|")]
        found[title] = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return found


def rows() -> list[list[str]]:
    """All rows of all tables, without their heads."""
    return [row for table in parts().values() for row in table[2:]]


@cache
def functions(path: str) -> frozenset[str]:
    """What a module of the tests defines."""
    return frozenset(
        node.name
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_the_list_has_67_faults():
    """As it was drawn up; none is listed twice."""
    ids = [row for part in ROWS.values() for row in part.split()]

    assert (len(ids), len(set(ids))) == (67, 67)


def test_every_fault_is_in_its_table_once():
    """And nothing else is: the parts and their rows are those of the list, each with four cells."""
    assert list(parts()) == list(ROWS)
    for title, listed in ROWS.items():
        head, *_ = parts()[title] or [[]]
        assert head == COLUMNS, title
        assert Counter(row[0] for row in parts()[title][2:]) == Counter(listed.split()), title
    assert [row for row in rows() if len(row) != len(COLUMNS) or not all(row)] == []


def test_every_test_that_the_page_names_is_there():
    """Wherever on the page it stands."""
    text = PAGE.read_text()
    named = _TEST.findall(text)
    missing = [
        f"{path}::{name}" for path, name in named if not (ROOT / path).is_file() or name not in functions(path)
    ]
    missing += [path for path in _PATH.findall(text) if not (ROOT / path).exists()]

    assert named
    assert missing == []


def test_every_fault_has_a_test_or_a_reason():
    """Who reads the row knows where to look, or why there is nothing to look at."""
    bare = [row[0] for row in rows() if not _TEST.search(row[3]) and len(row[3]) < REASON_CHARACTERS]

    assert bare == []
