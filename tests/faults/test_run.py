"""A bounded share of what ``scripts/faults`` does at length: every kind of fault once, under load."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from tests.faults.arena import Arena
from tests.faults.nemesis import FAULTS
from tests.faults.rounds import plan
from tests.faults.run import Settings, main, run, settings_of
from tests.faults.workloads.watch import Event, events


def test_a_plan_takes_every_kind_equally_often_and_is_the_same_for_the_same_seed():
    """Two at once are of different families."""
    kinds = tuple(FAULTS.values())

    first = list(islice(plan(kinds, random.Random(5)), 200))
    second = list(islice(plan(kinds, random.Random(5)), 200))

    counts = Counter(kind.name for each in first for kind in each)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert first == second
    pairs = [each for each in first if len(each) > 1]
    assert pairs
    assert all(one.__module__ != other.__module__ for one, other in pairs)


def test_an_event_that_breaks_off_is_none():
    """Only what ends with an empty line has been told."""
    text = b'retry: 1000\n\nid: 8\nevent: progress\ndata: {"revision":8}\n\nid: 9\nevent: change\ndata: {"rev'
    lines = iter(text.splitlines(keepends=True))

    assert list(events(lambda: next(lines, b""))) == [Event("progress", {"revision": 8})]


def test_a_command_line_says_what_is_run(tmp_path):
    """Kinds by name, in the order in which they are given; unknown ones are refused."""
    name = next(iter(FAULTS))
    settings, again = settings_of(["--minutes", "2", "--fault", name, name, "--seed", "9", "--out", str(tmp_path)])

    assert settings == Settings((FAULTS[name],), tmp_path, 9, 120.0)
    assert again is None
    with pytest.raises(SystemExit):
        settings_of(["--fault", "earthquake"])
