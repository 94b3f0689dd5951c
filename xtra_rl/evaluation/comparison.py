"""Agents side by side, a panel for each game: a bar for each agent, every episode in sight; a curve for each run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xtra_rl.evaluation.aggregates import mean, stratified_bootstrap
from xtra_rl.evaluation.figures import (
    COLOURS,
    STEP_LABELS,
    Series,
    XAxis,
    line_looks,
    new_figure,
    save_figure,
    shared_legend,
    styled,
)

__all__ = ["Curve", "agent_bars", "learning_curves"]


class Curve(NamedTuple):
    """Evaluations of one run: its name in the legend, the task it was played on, the scores by step."""

    label: str
    task: str
    scores: Series


def bootstrap_interval(
    scores: Sequence[float], *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of independent scores.

    Args:
        scores: at least one.
        level: coverage.
        draws: resamples.
        seed: of the resamples.
    """
    interval = stratified_bootstrap(mean, {"scores": scores}, level=level, draws=draws, seed=seed)
    return interval.low, interval.high


@styled
def agent_bars(
    scores: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, scale: str, seed: int
) -> Path:
    """Draw mean returns with 95 % bootstrap intervals over episodes; points are episodes.

    Args:
        scores: rows with ``task``, ``agent``, ``mode`` and ``return``, one for each episode.
        path: of the PNG.
        scale: for the title.
        seed: for the title.

    Example:
        >>> import tempfile
        >>> score = {"task": "pong", "agent": "student", "mode": "greedy"}
        >>> scores, path = [score | {"return": r} for r in (3, 5, 4)], f"{tempfile.mkdtemp()}/bars.png"
        >>> agent_bars(scores, path, scale="quick", seed=0).name
        'bars.png'
    """
    tasks = list(dict.fromkeys(row["task"] for row in scores))
    agents = list(dict.fromkeys((row["agent"], row["mode"]) for row in scores))
    figure = new_figure(3.2 * len(tasks) + 1.6, 0.3 * len(agents) + 1.3)
    panels = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    rng = np.random.default_rng(0)
    for axes, task in zip(panels, tasks, strict=True):
        for place, (agent, mode) in enumerate(agents):
            chosen = [
                float(row["return"])
                for row in scores
                if (row["task"], row["agent"], row["mode"]) == (task, agent, mode)
            ]
            if not chosen:
                continue
            names = list(dict.fromkeys(name for name, _ in agents))
            colour = COLOURS[names.index(agent) % len(COLOURS)]
            axes.barh(place, np.mean(chosen), color=colour, alpha=0.45, height=0.7)
            if len(chosen) > 1:
                low, high = bootstrap_interval(chosen)
                axes.plot([low, high], [place, place], color=colour, linewidth=2)
                spread = place + rng.uniform(-0.25, 0.25, len(chosen))
                axes.plot(chosen, spread, ".", color=colour, markersize=2.5, alpha=0.6)
        axes.set_title(task.replace("_", " "), fontsize=9)
        axes.set_xlabel("return of an episode")
        axes.grid(axis="y", visible=False)
    panels[0].set_yticks(
        range(len(agents)), [f"{agent}{f', {mode}' if mode else ''}" for agent, mode in agents]
    )
    panels[0].invert_yaxis()
    title = (
        f"Students, teachers and their data (scale {scale}, seed {seed}); bars: means, lines: 95 % intervals"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    return save_figure(figure, path)


@styled
def learning_curves(
    curves: Sequence[Curve], path: str | os.PathLike[str], *, x_axis: XAxis = "env_step"
) -> Path:
    """Draw the evaluations of several runs, in the colour of the run in every panel; runs are never averaged.

    Args:
        curves: at least one.
        path: of the picture.
        x_axis: which steps to plot against.

    Raises:
        ValueError: if there is no curve.

    Example:
        >>> import tempfile
        >>> steps = np.array([0.0, 100.0])
        >>> runs = [Curve(f"seed {seed}", "pong", Series(steps, steps, steps / 10 + seed)) for seed in range(2)]
        >>> learning_curves(runs, f"{tempfile.mkdtemp()}/curves.png").name
        'curves.png'
    """
    if not curves:
        raise ValueError("there is no curve to draw; pass runs that were evaluated at least once")
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    names = list(dict.fromkeys(curve.label for curve in curves))
    looks = dict(zip(names, line_looks(len(names))))
    figure = new_figure(4.2 * len(tasks) + 2.2, 3.6)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for curve in curves:
            if curve.task == task:
                steps, values = curve.scores.x(x_axis), curve.scores.value
                axes.plot(steps, values, marker="o", markersize=3.5, label=curve.label, **looks[curve.label])
        axes.set_title(task.replace("_", " "), fontsize=9)
        axes.set_xlabel(STEP_LABELS[x_axis])
    figure.axes[0].set_ylabel("mean return of an evaluation")
    shared_legend(figure)
    return save_figure(figure, path)
