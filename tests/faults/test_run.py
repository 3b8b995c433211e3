"""A bounded share of what ``scripts/faults`` does at length: every kind of fault once, under load."""

from __future__ import annotations

import random
from collections import Counter
from itertools import islice

import pytest

from tests.faults.nemesis import FAULTS
from tests.faults.operations import Outcome
from tests.faults.rounds import plan
from tests.faults.run import Settings, arena_of, run, settings_of
from tests.faults.workloads.watch import Event, events

LEFT_OUT = {"slow-zk-disk", "fsync-eio", "write-eio", "slow-fsync", "disk-full"}
"""What needs strace, or a small disk, and is left out where there is none."""


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


def test_every_kind_of_fault_once_breaks_no_promise(keeper, ensemble, tmp_path):
    """Under load, each for the shortest time that it makes sense; all checkers look at what was answered."""
    settings = Settings(tuple(FAULTS.values()), tmp_path / "run", seed=1, clients=8, hold_s=0.0)
    with arena_of(settings, keeper=keeper, ensemble=ensemble) as arena:
        result = run(settings, arena, print)

    found = [f"{each.checker}: {violation.what}" for each in result.verdicts for violation in each.violations]
    assert found == []
    assert result.remains.course.invalid == []
    counts = Counter(each.outcome for each in result.remains.evidence.operations)
    assert counts[Outcome.OK] > 2_000
    epochs = {each.entry.epoch for each in result.remains.evidence.log}
    assert len(epochs) > 5
    assert {name for each in result.remains.rounds for name in each.names} >= set(FAULTS) - LEFT_OUT
