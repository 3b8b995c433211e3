"""The formulas of bench/capacity.py and its model say the same, and the model keeps the laws of all systems."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bench.capacity import (
    SHAPES,
    Clock,
    Demands,
    Model,
    Processor,
    Seen,
    Shape,
    capacity,
    measured,
    node_demands,
    table,
    throughput,
    zookeeper_demand,
)
from bench.demands import PAGE, shown, up_to_date

ROOT = Path(__file__).resolve().parent.parent
WITHIN = 0.03
"""By which share the formula and the model may differ."""

QUICK = Demands(
    front=25e-6,
    decide=10e-6,
    apply=12e-6,
    lead=200e-6,
    push=60e-6,
    follow=150e-6,
    zk_lead=120e-6,
    zk_send=60e-6,
    quorum=1e-3,
    read=20e-6,
)
SLOW = replace(QUICK, front=100e-6, decide=50e-6, apply=50e-6, lead=500e-6, push=150e-6, follow=300e-6)
SLOW_ZOOKEEPER = replace(SLOW, zk_lead=5e-3, zk_send=2e-3, quorum=20e-3)
SHAPE_LIST = [
    Shape(clients=1),
    Shape(clients=2),
    Shape(clients=16),
    Shape(),
    Shape(nodes=7, clients=64),
    Shape(servers=7),
    Shape(nodes=6, logs=6, copies=3, clients=768),
    Shape(logs=3, clients=192),
]
CASES = [(demands, shape) for demands in (QUICK, SLOW, SLOW_ZOOKEEPER) for shape in SHAPE_LIST]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{CASES.index(case)}")
def played(request: pytest.FixtureRequest) -> tuple[Demands, Shape, Seen]:
    """A model that has run."""
    demands, shape = request.param
    return demands, shape, Model(demands, shape).run()


def test_the_formula_says_what_the_model_does(played: tuple[Demands, Shape, Seen]):
    """Throughput, within three in a hundred."""
    demands, shape, seen = played

    assert seen.throughput == pytest.approx(throughput(demands, shape), rel=WITHIN)


def test_no_model_exceeds_the_capacity(played: tuple[Demands, Shape, Seen]):
    """Nor the share of time that a processor has; a window may begin just before an entry lands."""
    demands, shape, seen = played

    assert seen.throughput <= capacity(demands, shape) * (1 + WITHIN)
    assert max(seen.worked) <= 1 + 1e-9


def test_writes_are_neither_lost_nor_made(played: tuple[Demands, Shape, Seen]):
    """Little's law: throughput times latency is the number of clients, each of which waits for one write."""
    _, shape, seen = played

    assert seen.throughput * seen.latency == pytest.approx(shape.clients, rel=WITHIN)


def test_processors_work_for_what_is_written_and_for_nothing_else(played: tuple[Demands, Shape, Seen]):
    """The utilisation law: each processor's share of the time is throughput times demand."""
    demands, shape, seen = played
    per_write = [*node_demands(demands, shape, seen.batch), zookeeper_demand(demands, shape, seen.batch)]

    for worked, demand in zip(seen.worked, per_write, strict=True):
        assert worked == pytest.approx(seen.throughput * demand, rel=WITHIN, abs=0.01)


def test_a_lone_write_takes_all_that_is_on_its_way():
    """One client, one node, no replica: nothing waits for anything, and the latency is a sum."""
    d, shape = QUICK, Shape(nodes=1, servers=1, clients=1)
    on_the_way = d.front + d.decide + d.lead + d.zk_lead + d.quorum

    seen = Model(d, shape).run()

    assert seen.batch == 1
    assert on_the_way <= seen.latency <= on_the_way + d.apply + 1e-9


def test_logs_side_by_side_add_up_and_nodes_do_not():
    """What the section concludes: more nodes do not write more, more logs do; each log gives the same again."""
    by_nodes = [throughput(QUICK, shape) for shape in SHAPES["nodes"].values()]
    by_logs = [throughput(QUICK, Shape(nodes=n, logs=n, copies=3, clients=256 * n)) for n in (3, 6, 12)]

    assert all(later <= earlier for earlier, later in pairwise(by_nodes))
    assert by_logs == pytest.approx([by_logs[0], 2 * by_logs[0], 4 * by_logs[0]])


def test_with_a_copy_everywhere_many_logs_are_bounded_by_applying():
    """Each node applies every write, whoever leads: capacity tends to one write per time to apply it."""
    shape = Shape(nodes=100, logs=100, clients=100_000)

    assert 0.5 / QUICK.apply < capacity(QUICK, shape) < 1 / QUICK.apply


def test_a_processor_does_one_thing_at_a_time_in_order():
    """Work that comes meanwhile waits; what was worked is known at every moment."""
    clock = Clock()
    processor = Processor(clock)
    done: list[tuple[str, float]] = []
    processor.work(2, lambda: done.append(("first", clock.now)))
    clock.run(1)
    assert processor.worked == 1
    processor.work(3, lambda: done.append(("second", clock.now)))

    clock.run(10)

    assert done == [("first", 2), ("second", 5)]
    assert processor.worked == 5


def test_the_page_shows_what_was_measured_last():
    """docs/performance.md has the demands of bench/demands.json, and their tables."""
    page = PAGE.read_text()

    assert shown(measured()) in page
    assert all("\n".join(table(measured(), varied)) in page for varied in SHAPES)


def test_a_page_is_brought_up_to_date():
    """Other demands change its line of demands and its tables, and nothing else."""
    page = PAGE.read_text()
    said = re.findall(r"^clients=.*$", page, re.MULTILINE)
    assert len(said) == 2

    other = up_to_date(page, SLOW_ZOOKEEPER, ["clients=7: slow"])

    assert f"```\n{shown(SLOW_ZOOKEEPER)}\nclients=7: slow\n```" in other
    rows = [line for line in page.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == sum(map(len, SHAPES.values()))
    assert not set(rows) & set(other.splitlines())
    assert up_to_date(other, measured(), said) == page


def test_demands_can_be_given_in_microseconds():
    """As ``python -m bench.capacity front=...``; one that does not exist is refused."""
    command = [sys.executable, "-m", "bench.capacity"]

    said = subprocess.run([*command, "read=1000"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    wrong = subprocess.run([*command, "back=1"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert re.search(r"^\| 7 \|.*\| 7,000 \|$", said, re.MULTILINE)
    assert wrong.returncode != 0
    assert "back" in wrong.stderr
