"""Random schedules of crashes, lost connections, lost sessions, pauses and lossy pushes, over the real core."""

import os
from pathlib import Path

import pytest

from kvlog.core.values import Committed

from .simulator import Simulator

SEEDS = int(os.environ.get("KVLOG_SIM_SEEDS", "150"))
FIRST = int(os.environ.get("KVLOG_SEED", "1"))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("seed", range(1, 11))
def test_no_size_of_the_cluster_does(seed: int, size: int):
    """A single node has nobody who could take over from it; five have more than one in line."""
    sim = Simulator(seed, size=size)

    sim.run(seconds=8)

    sim.check()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + (1 if "KVLOG_SEED" in os.environ else SEEDS)))
def test_no_schedule_of_faults_breaks_a_promise(seed: int, tmp_path: Path):
    """Acknowledged means in the log once, refused means never, and all replicas end with the same records."""
    sim = Simulator(seed)
    try:
        sim.run(seconds=12)
        sim.check()
    except AssertionError:
        trace = tmp_path / "trace.txt"
        trace.write_text("\n".join(sim.lines))
        print(f"KVLOG_SEED={seed} replays this run; its trace is in {trace}")
        raise

    assert any(isinstance(write.outcome, Committed) for write in sim.writes), "nothing was ever written"
