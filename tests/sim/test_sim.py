"""Random schedules of faults over the real core.

Crashes, power cuts, lost disks, connections and sessions, pauses, strangers in the log, lossy pushes and copies.
"""

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from kvlog.core.values import Committed

from .simulator import Simulator

SEEDS = int(os.environ.get("KVLOG_SIM_SEEDS", "30"))
SHORT_SEEDS = int(os.environ.get("KVLOG_SIM_SHORT_SEEDS", "2000"))
FIRST = int(os.environ.get("KVLOG_SEED", "1"))
CHUNK = 100


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("seed", range(1, 11))
def test_no_size_of_the_cluster_does(seed: int, size: int):
    """A single node has nobody who could take over from it; five have more than one in line."""
    sim = Simulator(seed, size=size)

    sim.run(seconds=8)

    sim.check()


@pytest.mark.parametrize("seed", range(FIRST, FIRST + (1 if "KVLOG_SEED" in os.environ else SEEDS)))
def test_no_schedule_of_faults_breaks_a_promise(seed: int, tmp_path: Path):
    """Acknowledged means in the log once, refused means never, and all replicas end with the same state."""
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


def test_requests_come_together_and_waiting_nodes_are_woken():
    """What happens under load only happens here, too: one step for many requests, and a wait for a group."""
    sim = Simulator(1)

    sim.run(seconds=6, faults_per_s=0.1)

    sim.check()
    assert min(sim.faults["gathered"], sim.faults["woken"]) > 5, sim.faults


def short(seed: int) -> Simulator:
    """A short run with a fault every third of a second, healed in the middle of it all."""
    sim = Simulator(seed)
    sim.run(seconds=1.5, writes_per_s=30, faults_per_s=3, rest_s=0)
    return sim


def long(seed: int) -> Simulator:
    """A long run."""
    sim = Simulator(seed)
    sim.run(seconds=12)
    return sim


def broken_promises(seeds: range, *, long_ones: bool = False) -> list[str]:
    """What went wrong in these runs, which are short if they are not to be long. Runs in a process of its own."""
    found = []
    for seed in seeds:
        try:
            (long if long_ones else short)(seed).check()
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to its seed
            found.append(f"seed {seed}: {type(error).__name__} {str(error)[:300]}")
    return found


def chunks() -> Iterator[range]:
    for first in range(FIRST, FIRST + SHORT_SEEDS, CHUNK):
        yield range(first, min(first + CHUNK, FIRST + SHORT_SEEDS))


def test_thousands_of_short_schedules_do_not_either():
    """Many short ones reach corners that few long ones miss; ``short(seed)`` in this module replays one."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        broken = [line for lines in pool.map(broken_promises, chunks()) for line in lines]

    assert broken == []
