"""How the pictures of a report are drawn from their rows; colours and style are those of all pictures here."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xtra_rl.evaluation.figures import STEP_LABELS, new_figure, save_figure, shared_legend, styled
from xtra_rl.report.curves import Rows
from xtra_rl.report.measures import game_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Looks = dict[str, dict[str, Any]]
"""Colour and line style by label: a system looks the same in every picture."""


@styled
def draw_panels(
    rows: Rows, path: Path, looks: Looks, *, panel: str = "game", line: str = "system",
    y_label: str = "mean return", unit: float = 1, titles: bool = True, held: bool = False,
    y_limits: tuple[float, float] | None = None, zero: bool = False, named: Callable[[str], str] = str,
) -> Path:  # fmt: skip
    """Lines with bands against env steps, a panel for each value of a column; ``held`` values stay until the next.

    ``named`` makes the legend's words out of those of the rows; ``zero`` draws a line there.
    """
    names = list(dict.fromkeys(row[panel] for row in rows))
    figure, panels, columns = _grid(len(names))
    for place, (axes, name) in enumerate(zip(panels, names)):
        for label, look in looks.items():
            chosen = [row for row in rows if row[panel] == name and row[line] == label]
            _line(axes, chosen, named(label), look, unit, held=held)
        if zero:
            axes.axhline(0, color="#000000", linewidth=0.8)
        if titles:
            axes.set_title(game_title(name) if panel == "game" else name, fontsize=9)
        _steps_axis(axes, STEP_LABELS["env_step"] if place + columns >= len(names) else "", columns)
        if place % columns == 0:
            axes.set_ylabel(y_label)
        if y_limits:
            axes.set_ylim(*y_limits)
    shared_legend(figure, below=_legend_columns(looks, figure.get_figwidth()))
    return save_figure(figure, path)


def _line(axes: Axes, rows: Rows, label: str, look: dict[str, Any], unit: float, *, held: bool) -> None:
    stepped = [row for row in rows if row["env_step"] is not None]
    for row in rows:
        if row["env_step"] is None:
            style = "--" if look["linestyle"] == "-" else look["linestyle"]
            axes.axhline(unit * row["mean"], label=label, **(look | {"linestyle": style}))
    if not stepped:
        return
    steps = [row["env_step"] for row in stepped]
    marker = "o" if len(steps) < 20 else ""
    means = [unit * row["mean"] for row in stepped]
    style = "steps-post" if held else "default"
    axes.plot(steps, means, marker=marker, markersize=2.5, label=label, drawstyle=style, **look)
    banded = [row for row in stepped if row.get("low") is not None]
    if banded:
        low, high = ([unit * row[side] for row in banded] for side in ("low", "high"))
        axes.fill_between(
            [row["env_step"] for row in banded], low, high, color=look["color"], alpha=0.15, linewidth=0,
            step="post" if held else None,
        )  # fmt: skip


def _grid(count: int) -> tuple[Figure, list[Axes], int]:
    """Panels in rows of at most four, the unused ones hidden; and how many stand in a row."""
    columns = count if count <= 4 else min(4, math.ceil(math.sqrt(count)))
    lines = math.ceil(count / columns)
    figure = new_figure(max(5.2, 2.6 * columns), (2.9 if count == 1 else 2.2) * lines + 0.6)
    panels = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels[:count], columns


def _legend_columns(labels: Collection[str], width: float) -> int:
    """How many columns of a legend fit into so many inches."""
    inches = 0.065 * max(map(len, labels), default=1) + 0.55
    return max(1, min(len(labels), int((width - 0.3) / inches)))


def _steps_axis(axes: Axes, label: str, columns: int) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    # The long label of a narrow panel would reach into the next one.
    axes.set_xlabel(label.partition(" (")[0] if columns > 1 else label)


@styled
def draw_gains(rows: Rows, path: Path, looks: Looks) -> Path:
    """Bars of the relative gain, grouped by game."""
    games = list(dict.fromkeys(row["game"] for row in rows))
    systems = [label for label in looks if any(row["system"] == label for row in rows)]
    lines = len(games) * (len(systems) + 1) - 1
    figure = new_figure(7.6, 0.17 * lines + 1.2)
    axes = figure.subplots()
    for place, label in enumerate(systems):
        chosen = {row["game"]: row for row in rows if row["system"] == label}
        for game, row in chosen.items():
            y = games.index(game) * (len(systems) + 1) + place
            named = label if game == next(iter(chosen)) else None
            _bar(axes, y, row, looks[label]["color"], 100, named)
    middle = (len(systems) - 1) / 2
    axes.set_yticks(
        [i * (len(systems) + 1) + middle for i in range(len(games))], [game_title(game) for game in games]
    )
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.set_ylim(lines - 0.2, -0.8)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"gain over {rows[0]['over']}, %")
    shared_legend(figure, below=_legend_columns(systems, figure.get_figwidth()))
    return save_figure(figure, path)


@styled
def draw_aggregates(rows: Rows, path: Path, looks: Looks) -> Path:
    """Bars of each statistic, a panel for each."""
    statistics = list(dict.fromkeys(row["statistic"] for row in rows))
    systems = [label for label in looks if any(row["system"] == label for row in rows)]
    figure = new_figure(1.9 * len(statistics) + 0.075 * max(map(len, systems)), 0.26 * len(systems) + 1.2)
    panels = figure.subplots(1, len(statistics), squeeze=False, sharey=True)[0]
    for axes, statistic in zip(panels, statistics, strict=True):
        for row in rows:
            if row["statistic"] == statistic:
                _bar(axes, systems.index(row["system"]), row, looks[row["system"]]["color"], 1, None)
        better = "lower" if statistic == "optimality gap" else "higher"
        axes.set_title(f"{statistic}\n({better} is better)", fontsize=8)
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(range(len(systems)), systems)
    panels[0].invert_yaxis()
    figure.supxlabel(rows[0]["normalised"], fontsize=9)
    return save_figure(figure, path)


def _bar(axes: Axes, y: float, row: dict[str, Any], colour: str, unit: float, label: str | None) -> None:
    axes.barh(y, unit * row["mean"], color=colour, alpha=0.75, height=0.8, label=label)
    if row["low"] is not None:
        ends = np.array([row["low"], row["high"]]) * unit
        axes.plot(ends, [y, y], color="#333333", linewidth=1.4, solid_capstyle="butt")
