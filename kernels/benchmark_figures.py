"""Pictures of the search benchmark: who is how fast, and how the cost grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xtra_rl.evaluation.figures import line_looks, new_figure, shared_legend, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TITLES = {
    "tree": "tree only",
    "pool": "tree and latents",
    "network": "with EfficientZero's network",
}
Row = dict[str, Any]


def draw(rows: list[Row], folder: Path) -> list[Path]:
    """Write the pictures that these rows can fill."""
    pictures = []
    if any(row["section"] in TITLES for row in rows):
        pictures.append(speed(rows, folder / "speed.png"))
    if any(row["section"] == "scaling" for row in rows):
        pictures.append(scaling(rows, folder / "scaling.png"))
    return pictures


@styled
def speed(rows: list[Row], path: Path) -> Path:
    """Simulations per second against the batch, one panel a section, one line an implementation."""
    sections = [name for name in TITLES if any(row["section"] == name for row in rows)]
    figure = new_figure(4.0 * len(sections) + 2.6, 3.8)
    names = list(dict.fromkeys(_name(row) for row in rows if row["section"] in sections))
    looks = {_name(row): _look(row, rows) for row in rows}
    for axes, section in zip(np.atleast_1d(figure.subplots(1, len(sections))), sections, strict=True):
        for name in names:
            of_name = [row for row in rows if row["section"] == section and _name(row) == name]
            if of_name:
                batch, rate = zip(*((row["batch"], row["simulations_per_s"]) for row in of_name), strict=True)
                axes.plot(batch, rate, marker="o", markersize=3, label=name, **looks[name])
        bound = [
            (row["batch"], row["batch"] * row["simulations"] / row["bound_ms"] * 1e3)
            for row in rows
            if row["section"] == section and row["bound_ms"] > 0
        ]
        axes.plot(
            *zip(*sorted(set(bound)), strict=True),
            color="#999999",
            linewidth=0.8,
            label="bound of the machine",
        )
        axes.set_title(TITLES[section])
        _logarithmic(axes, "roots searched at once", sorted({row["batch"] for row in rows}))
        axes.set_ylabel("simulations per second")
    first = rows[0]
    figure.suptitle(
        f"{first['simulations']} simulations a search, 18 actions  ({first['machine']}, {first['date']})",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    shared_legend(figure)
    figure.savefig(path)
    return path


@styled
def scaling(rows: list[Row], path: Path) -> Path:
    """Time of a search against its simulations and against its batch, beside straight proportion."""
    rows = [row for row in rows if row["section"] == "scaling"]
    figure = new_figure(9.6, 3.8)
    axes_pair = figure.subplots(1, 2)
    for axes, x, other, label in zip(
        axes_pair,
        ("simulations", "batch"),
        ("batch", "simulations"),
        ("simulations of a search", "roots searched at once"),
    ):
        groups = sorted({row[other] for row in rows})
        for group, look in zip(groups, line_looks(len(groups)), strict=True):
            points = sorted((row[x], row["median_ms"]) for row in rows if row[other] == group)
            xs, ys = np.array(points).T
            power = f"  (time ~ {x}^{exponent(xs, ys):.2f})" if len(xs) > 1 else ""
            axes.plot(
                xs,
                ys,
                marker="o",
                markersize=3,
                label=f"{group} {'at once' if other == 'batch' else other}{power}",
                **look,
            )
            axes.plot(xs, ys[-1] * xs / xs[-1], color="#BBBBBB", linewidth=0.8, zorder=0)
        _logarithmic(axes, label, sorted({row[x] for row in rows}))
        axes.set_ylabel("milliseconds a search")
        axes.legend(fontsize=7)
    figure.suptitle(
        f"Tree only, pUCT; grey: in proportion  ({rows[0]['machine']}, {rows[0]['date']})",
        x=0.01,
        ha="left",
        fontsize=10,
    )
    figure.savefig(path)
    return path


def _look(row: Row, rows: list[Row]) -> dict[str, Any]:
    """A colour for each implementation, a line style for each rule."""
    implementations = list(dict.fromkeys(other["implementation"] for other in rows))
    colours = line_looks(len(implementations))
    styles = {"puct": "-", "puct_siblings": (0, (5, 2)), "gumbel": (0, (1, 1.5)), "": (0, (5, 2, 1, 2))}
    return colours[implementations.index(row["implementation"])] | {"linestyle": styles[row["rule"]]}


def exponent(x: np.ndarray, y: np.ndarray) -> float:
    """p of the power law ``y ~ x^p`` through the points, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _name(row: Row) -> str:
    return f"{row['implementation']} {row['rule']}".strip()


def _logarithmic(axes: Axes, label: str, ticks: list[int]) -> None:
    from matplotlib.ticker import EngFormatter, LogLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 300 * low else (1, 2, 5)))
    axes.yaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label)
