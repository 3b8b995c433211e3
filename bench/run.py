"""Measures kvlog and its peers, and writes the results with a report.

    scripts/bench
    scripts/bench --systems kvlog etcd --cases throughput --runs 5 --seconds 10

In each run all systems are measured, one after the other, and never two at a time. What cannot be verified has no
figures, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from bench.case import Case, Scale
from bench.cases import CASES
from bench.publish import publish
from bench.results import Results, this_machine, tools
from bench.runs import Bench
from bench.systems.base import System
from bench.systems.course import Course
from bench.systems.etcd import Etcd
from bench.systems.kvlog_nodes import KvlogNodes
from bench.systems.pysyncobj_nodes import PySyncObjNodes
from bench.systems.zookeeper import RawZooKeeper

SYSTEMS: dict[str, Callable[[], System]] = {
    "kvlog": KvlogNodes,
    "etcd": Etcd,
    "zookeeper": RawZooKeeper,
    "pysyncobj": PySyncObjNodes,
    "course": Course,
}

BASELINE = "baseline"
"""The system that another checkout of kvlog is, where one is given."""


def settings(arguments: argparse.Namespace) -> dict[str, str]:
    """What was asked for."""
    return {
        "runs": str(arguments.runs),
        "seconds per load": f"{arguments.seconds:g}",
        "share": f"{arguments.share:g}",
        "seed": str(arguments.seed),
    }


def title(case: type[Case]) -> str:
    """What a case measures: its docstring in one line."""
    return " ".join((inspect.getdoc(case) or "").split())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="scripts/bench", description="Measure kvlog against its peers.")
    made.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="what to measure")
    made.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS), help="what of")
    made.add_argument("--runs", type=int, default=3, help="how often all of it is measured (3)")
    made.add_argument("--seconds", type=float, default=5.0, help="how long each load lasts (5)")
    made.add_argument("--share", type=float, default=1.0, help="of the large amounts; less than 1 to try it (1)")
    made.add_argument("--seed", type=int, default=1, help="that keys, values and their order are drawn from (1)")
    made.add_argument("--out", type=Path, default=Path("bench/results"), help="directory of the results")
    made.add_argument("--baseline", type=Path, help="another checkout of kvlog, measured as well")
    return made


def main() -> int:
    """See the module's docstring."""
    arguments = parser().parse_args()
    systems = {name: SYSTEMS[name] for name in SYSTEMS if name in arguments.systems}
    if arguments.baseline is not None:
        checkout = arguments.baseline.resolve()
        systems[BASELINE] = lambda: KvlogNodes(name=BASELINE, checkout=checkout)
    cases = {name: CASES[name] for name in CASES if name in arguments.cases}
    arguments.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(systems, cases, seed=arguments.seed, scale=Scale(arguments.seconds, arguments.share))
    results = Results(this_machine(), tools(), settings(arguments), {name: title(cases[name]) for name in cases})
    for number in range(1, arguments.runs + 1):
        for measured in bench.run(number):
            results.measured.append(measured)
            results.versions |= bench.versions
            results.notes = list(bench.notes)
            results.write(arguments.out / "results.json")
    publish(results, arguments.out)
    print(f"{arguments.out / 'report.md'} is written")
    if not results.verified:
        print("Not all of it could be verified: see above, and in the report.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
