"""kvlog is broken on purpose, in one way after the other: the tests that should notice it do.

The same tests pass without a mutant: the ordinary run shows that.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, table
from tests.faults.mutation import VARIABLE, Edit, Mutant, StaleMutant, changed, path_of
from tests.faults.trial import BROKEN, Verdict, try_mutant

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"

pytestmark = pytest.mark.skipif(VARIABLE in os.environ, reason="this is a mutant already")


def said(mutant: Mutant, verdict: Verdict) -> str:
    return f"{mutant.name}: {mutant.breaks}\n\n{verdict.output[-6000:]}\n{verdict}"


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(request: pytest.FixtureRequest, name: str):
    """Each of its tests fails, by an assertion or an invariant, and so does a schedule of the simulator."""
    mutant = MUTANTS[name]
    needs_zookeeper = any("zookeeper" in test for test in mutant.killed_by)

    verdict = try_mutant(mutant, request.getfixturevalue("ensemble").hosts if needs_zookeeper else "")

    survived = [test for test in mutant.killed_by if not verdict.of(test)]
    assert verdict.code == pytest.ExitCode.TESTS_FAILED, said(mutant, verdict)
    assert survived == [], said(mutant, verdict)
    assert set(verdict.failed.values()) <= BROKEN, said(mutant, verdict)
    assert bool(verdict.schedule) == bool(mutant.seed), said(mutant, verdict)


def test_what_is_not_broken_survives():
    """A trial without a mutant: what fails in the others does so because of them."""
    tests = tuple(
        mutant.killed_by[0] for mutant in MUTANTS.values() if mutant.killed_by[0].startswith("tests/core/")
    )
    verdict = try_mutant(Mutant("none", "nothing", (), tests))

    assert verdict.failed == {}, verdict
    assert verdict.code == pytest.ExitCode.OK, verdict
    assert len(verdict.passed) >= len(set(tests))


def test_a_mutant_whose_place_has_changed_says_so():
    """It does not pass for one that nothing notices, or that everything does."""
    place = "kvlog.core.gathering:Gathering.gone"
    source = path_of("kvlog.core.gathering").read_text()

    for edit in (
        Edit(place, "not there", "x"),
        Edit(place, "now", "x"),  # more than once
        Edit(place, "self._gone", "self._gone"),
        Edit("kvlog.core.gathering:Gathering.went", "now", "x"),
    ):
        with pytest.raises(StaleMutant):
            changed(source, [edit])
    with pytest.raises(StaleMutant):
        path_of("kvlog.core.gatherings")
    verdict = try_mutant(Mutant("stale", "", (Edit(place, "not there", "x"),), ("tests/core/test_gathering.py",)))
    assert verdict.code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)


@pytest.mark.parametrize("program", ["faults/mutant_server.py", "cluster/small_segments.py"])
def test_nodes_are_mutants_as_well(program: str):
    """The programs that tests start for a node; an ordinary one knows nothing of mutants."""

    def ends(name: str, *argv: str) -> tuple[int, str]:
        environment = os.environ | {VARIABLE: name}
        done = subprocess.run(
            [sys.executable, *argv, "--help"], cwd=ROOT, env=environment, capture_output=True, check=False
        )
        return done.returncode, done.stderr.decode()

    code, errors = ends("no-such-mutant", str(ROOT / "tests" / program))
    assert code != 0
    assert "KeyError: 'no-such-mutant'" in errors
    assert ends("no-fence", str(ROOT / "tests" / program)) == (0, "")
    assert ends("no-such-mutant", "server.py") == (0, "")


def test_the_page_and_the_mutants_agree():
    """docs/reliability.md has the table that ``python -m tests.faults.mutants`` writes."""
    section = PAGE.read_text().partition("\n## Mutants\n")[2].partition("\n## ")[0]

    assert section[section.index("### ") :].strip() == table().strip()


def test_every_mutant_is_told_and_aimed_at_tests_that_exist():
    """Names are words with hyphens; what breaks is one sentence; the files of the tests are there."""
    for name, mutant in MUTANTS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", name)
        assert mutant.breaks[-1] != "."
        assert "|" not in mutant.breaks
        for test in mutant.killed_by:
            path, first, *_ = test.partition("[")[0].split("::")
            assert re.search(rf"^(def|class) {first}\(", (ROOT / path).read_text(), re.MULTILINE), test
