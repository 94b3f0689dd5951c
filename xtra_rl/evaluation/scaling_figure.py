"""A picture of how fast training is with more ranks, more actors and more tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtra_rl.evaluation.figures import COLOURS, new_figure, styled


@styled
def draw_scaling(curves: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> Path:
    """Panels side by side.

    Args:
        curves: of ``panel``, ``x_label``, ``y_label``, ``label``, ``x`` and ``y``; ``marker`` for points without a
            line, such as those of a simulation, in the colour of the line of the same label.
        path: of the picture.
        title: says what was measured on which machine.
    """
    panels = list(dict.fromkeys(curve["panel"] for curve in curves))
    figure = new_figure(4.3 * len(panels), 3.9)
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        members = [curve for curve in curves if curve["panel"] == panel]
        labels = list(dict.fromkeys(curve["label"] for curve in members))
        for curve in members:
            points = bool(curve.get("marker"))
            axes.plot(
                curve["x"],
                curve["y"],
                linestyle="none" if points else "-",
                marker="o" if points else None,
                markersize=4,
                color=COLOURS[labels.index(curve["label"])],
                label=None if points else curve["label"],
            )
        ticks = sorted({x for curve in members for x in curve["x"]})
        if len(ticks) > 2 and ticks[0] > 0 and ticks[-1] >= 16 * ticks[0]:
            axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_title(panel)
        axes.set_xlabel(members[0]["x_label"])
        axes.set_ylabel(members[0]["y_label"])
        axes.legend(loc="best")
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")
    return path
