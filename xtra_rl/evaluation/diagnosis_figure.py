"""The picture of a :class:`~xtra_rl.evaluation.diagnosis.Diagnosis`: four panels, one question each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtra_rl.evaluation.diagnosis import Diagnosis
from xtra_rl.evaluation.diagnosis_tables import by_unroll_step, summary
from xtra_rl.evaluation.figures import COLOURS, new_figure, save_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@styled
def draw_diagnosis(found: Diagnosis, path: str | os.PathLike[str], *, title: str) -> Path:
    """Draw actions, errors along the unroll, entropies and the calibration of values.

    Args:
        found: with at least one position.
        path: picture to write.
        title: which agent on which game.
    """
    figure = new_figure(8.4, 6.2)
    panels = figure.subplots(2, 2)
    _draw_actions(panels[0, 0], found)
    _draw_errors(panels[0, 1], found)
    _draw_entropies(panels[1, 0], found)
    _draw_calibration(panels[1, 1], found)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return save_figure(figure, path)


def _draw_actions(axes: Axes, found: Diagnosis) -> None:
    rows = by_unroll_step(found)[1:]
    steps = [row["step"] for row in rows]
    middle = np.array([row["true action beats random"] for row in rows])
    ends = np.array([[row["beats low"], row["beats high"]] for row in rows]).T
    whiskers = np.abs(ends - middle)
    axes.errorbar(steps, middle, whiskers, fmt="o-", color=COLOURS[0], capsize=2, label="all positions")
    numbers = summary(found)
    seen = numbers["action/where_it_differs"]
    if seen is not None:
        low, high = numbers["action/where_it_differs_interval"]
        share = f"where it brings another frame ({numbers['action/differs']:.0%})"
        axes.errorbar(
            [1.15],
            [seen],
            None if low is None else [[seen - low], [high - seen]],
            fmt="s",
            color=COLOURS[1],
            capsize=2,
            label=share,
        )
    axes.axhline(0.5, color="#666666", linestyle=(0, (5, 2)), linewidth=1, label="the action does not matter")
    axes.set_title("Does the next latent depend on the action?")
    axes.set_ylabel("true action's latent is the nearer one")
    axes.set_xlabel("unroll step")
    axes.set_xticks(steps)
    axes.set_ylim(0.0 if middle.min() < 0.4 else 0.4, 1.02)
    axes.legend()


def _draw_errors(axes: Axes, found: Diagnosis) -> None:
    rows = by_unroll_step(found)
    for name, colour, marker in (("value", COLOURS[1], "s"), ("reward", COLOURS[2], "o")):
        known = [
            (row["step"], row[f"{name} explained"])
            for row in rows
            if row[f"{name} explained"] is not None and np.isfinite(row[f"{name} explained"])
        ]
        if known:
            # Far below the best constant how far no longer matters.
            steps, shares = zip(*known)
            axes.plot(steps, np.clip(shares, -1, 1), marker=marker, color=colour, label=name)
    axes.axhline(0, color="#666666", linestyle=(0, (5, 2)), linewidth=1, label="the best constant")
    axes.set_title("How far do predictions hold along the unroll?")
    axes.set_ylabel("variance explained (cut off at -1)")
    axes.set_xlabel("unroll step")
    axes.set_xticks([row["step"] for row in rows])
    axes.legend()


def _draw_entropies(axes: Axes, found: Diagnosis) -> None:
    most = float(np.log(found.legal.max()))
    bins = np.linspace(0, most * 1.02, 31).tolist()
    for name, values, colour in (
        ("prior", found.prior_entropy, COLOURS[5]),
        ("search", found.search_entropy, COLOURS[0]),
    ):
        axes.hist(values, bins, color=colour, alpha=0.55, label=f"{name}, mean {values.mean():.2f}")
    axes.axvline(most, color="#666666", linestyle=(0, (5, 2)), linewidth=1, label="uniform")
    axes.set_title("How decided are prior and search?")
    axes.set_xlabel("entropy of the policy (nats)")
    axes.set_ylabel("positions")
    axes.legend()


def _draw_calibration(axes: Axes, found: Diagnosis) -> None:
    value, target = found.value[:, 0], found.value_target[:, 0]
    known = np.isfinite(value) & np.isfinite(target)
    value, target = value[known], target[known]
    axes.plot(value, target, ".", color=COLOURS[5], markersize=3, alpha=0.4, label="a position")
    places = np.array_split(np.argsort(value, kind="stable"), min(10, len(value)))
    means = [(value[place].mean(), target[place].mean()) for place in places if len(place)]
    axes.plot(*zip(*means), "o-", color=COLOURS[1], label="tenths of the positions")
    ends = [min(value.min(), target.min()), max(value.max(), target.max())]
    axes.plot(ends, ends, color="#666666", linestyle=(0, (5, 2)), linewidth=1, label="what was predicted")
    axes.set_title("Do values mean what they say?")
    axes.set_xlabel("predicted value")
    axes.set_ylabel("discounted return that followed")
    if (point := axes.legend().legend_handles[0]) is not None:
        point.set(markersize=6, alpha=0.8)  # a dot of the cloud cannot be seen alone
