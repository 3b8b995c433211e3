"""Curves of figures that were measured at several sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of Okabe and Ito: told apart by all eyes."""

Spread = tuple[float, float, float]
"""Median, lowest, highest."""


def draw(directory: Path, title: str, unit: str, systems: Mapping[str, Mapping[float, Spread]]) -> str:
    """One SVG on white, a curve per system with its spread; returns the name of the file."""
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") + ".svg"
    # With the salt, the same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": "kvlog", "svg.fonttype": "none", "font.size": 10.0}):
        figure = Figure(figsize=(6.4, 3.6), facecolor="white", layout="constrained")
        axes = figure.add_subplot()
        for (system, points), color in zip(systems.items(), COLORS, strict=False):
            sizes = sorted(points)
            median = [points[size][0] for size in sizes]
            below = [points[size][0] - points[size][1] for size in sizes]
            above = [points[size][2] - points[size][0] for size in sizes]
            axes.errorbar(
                sizes, median, yerr=(below, above), label=system, color=color, marker="o", markersize=4, capsize=3
            )
        axes.set_xscale("log")
        axes.set_xticks(sorted({size for points in systems.values() for size in points}))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_ylim(bottom=0)
        axes.set_title(title)
        axes.set_ylabel(unit)
        axes.grid(visible=True, color="#dddddd")
        axes.legend(frameon=False)
        figure.savefig(directory / name, format="svg", metadata={"Date": None})
    return name
