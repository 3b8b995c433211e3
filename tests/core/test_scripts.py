"""The golden scripts of the node; see tests.golden."""

from pathlib import Path

import pytest

from tests.golden import run_script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_node_decides_as_the_script_says(script: Path):
    """The same events lead to the same effects, in the same order."""
    run_script(script)


def test_there_are_scripts():
    """A moved folder does not pass for a good one."""
    assert len(SCRIPTS) >= 12
