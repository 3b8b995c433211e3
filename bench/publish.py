"""The report and its plots from a file of results, beside it.

.venv/bin/python -m bench.publish bench/results/results.json
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from bench.plots import Spread, draw
from bench.report import lines, markdown
from bench.results import Results, read

_AT = re.compile(r"(.+) at ([\d,]+)")
"""The name of a figure that was measured at several sizes."""


def publish(results: Results, directory: Path) -> None:
    """Write both; a figure that was measured at several sizes gets a plot."""
    plots = {case: _plots(results, case, directory) for case in results.titles}
    (directory / "report.md").write_text(markdown(results, plots))


def _plots(results: Results, case: str, directory: Path) -> list[str]:
    series: dict[tuple[str, str], dict[str, dict[float, Spread]]] = {}
    for line in lines(results, case):
        if sized := _AT.fullmatch(line.figure.name):
            values = line.values.values()
            by_system = series.setdefault((sized[1], line.figure.unit), {})
            by_system.setdefault(line.system, {})[float(sized[2].replace(",", ""))] = (
                line.median,
                min(values),
                max(values),
            )
    return [
        draw(directory, name, unit, by_system)
        for (name, unit), by_system in series.items()
        if any(len(points) > 1 for points in by_system.values())
    ]


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Make a report from a file of results, beside it.")
    parser.add_argument("results", type=Path)
    path = parser.parse_args().results
    publish(read(path), path.parent)


if __name__ == "__main__":
    main()
