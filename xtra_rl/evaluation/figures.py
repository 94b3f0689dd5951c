"""Pictures of a run, drawn from its ``metrics.csv``: learning curve, task weights and cosines, losses.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart. The format follows the suffix
of the file: ``.png``, ``.pdf`` or ``.svg``.

Example:
    >>> import tempfile
    >>> from xtra_rl.training.logging import RunLogger
    >>> run = tempfile.mkdtemp()
    >>> with RunLogger(run) as logger:
    ...     for step in range(3):
    ...         metrics = {"train/episode_return": 2.0 * step, "loss/value": 0.5**step, "task_weight/alien": 0.8}
    ...         logger.log(metrics, env_step=step, train_step=step)
    >>> series, about = read_metrics(run), {"scale": "quick", "seed": 0}
    >>> series["train/episode_return"].value
    array([0., 2., 4.])
    >>> learning_curve(series, f"{run}/returns.png", task="pong", **about, baselines={"random": -20.7}).name
    'returns.png'
    >>> loss_curves(series, f"{run}/losses.png", **about).name
    'losses.png'
    >>> task_weight_traces(series, f"{run}/weights.png", **about).name
    'weights.png'
"""

from __future__ import annotations

import csv
import functools
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from typing import ParamSpec

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    P = ParamSpec("P")

__all__ = ["Series", "learning_curve", "loss_curves", "read_metrics", "task_weight_traces"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
STEP_LABELS = {"env_step": "environment steps (1 step = 4 frames)", "train_step": "optimiser steps"}

_COLUMNS = ["env_step", "train_step", "metric", "value"]
_BASELINE_STYLES = ((0, (1, 1.5)), (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (8, 2)))
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "savefig.dpi": 200,
    "svg.hashsalt": "xtra_rl",
}

XAxis = Literal["env_step", "train_step"]


class Series(NamedTuple):
    """One metric over the training: arrays of equal length, in the order of logging."""

    env_step: np.ndarray
    train_step: np.ndarray
    value: np.ndarray

    def x(self, axis: XAxis) -> np.ndarray:
        """The steps to plot against, ``[T]``."""
        return self.env_step if axis == "env_step" else self.train_step


def styled(draw: Callable[P, Path]) -> Callable[P, Path]:
    """Apply the style while a picture is drawn, and only then."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Path:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return wrapper


def read_metrics(path: str | os.PathLike[str]) -> dict[str, Series]:
    """Read a ``metrics.csv`` (or the one in a run directory) into one series per metric.

    A last row without its line end is left out: a run that goes on may be read in the middle of a write.

    Raises:
        ValueError: if there is no such file, or a row is not ``env_step,train_step,metric,value``.
    """
    path = Path(path)
    path = path / "metrics.csv" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"{path} does not exist; pass a run directory or its metrics.csv")
    rows: dict[str, list[tuple[float, float, float]]] = {}
    content = path.read_text(encoding="utf-8")
    lines = csv.reader(io.StringIO(content[: content.rfind("\n") + 1]))
    if (header := next(lines, _COLUMNS)) != _COLUMNS:
        raise ValueError(f"{path} has the columns {','.join(header)}; expected {','.join(_COLUMNS)}")
    for row in lines:
        try:
            env_step, train_step, name, value = row
            steps = (float(env_step or "nan"), float(train_step or "nan"))
            rows.setdefault(name, []).append((*steps, float(value)))
        except ValueError as error:
            raise ValueError(f"{path} has a row that is not {','.join(_COLUMNS)}: {','.join(row)}") from error
    return {name: Series(*np.array(values, dtype=np.float64).T) for name, values in rows.items()}


@styled
def learning_curve(
    metrics: str | os.PathLike[str] | Mapping[str, Series],
    path: str | os.PathLike[str],
    *,
    task: str,
    scale: str,
    seed: int,
    baselines: Mapping[str, float | None] | None = None,
    train_metric: str = "train/episode_return",
    x_axis: XAxis = "env_step",
) -> Path:
    """Draw training-episode returns and evaluation scores against steps.

    Args:
        metrics: a run directory, its ``metrics.csv`` or what :func:`read_metrics` returned.
        path: picture to write.
        task: name of the task; its evaluations are ``eval/<task>/return`` and ``eval/<task>/return_<mode>``.
        scale: name of the scale, for the title.
        seed: seed of the run, for the title.
        baselines: horizontal lines by name, e.g. random, untrained network, best constant action; ``None``
            values are left out.
        train_metric: returns of finished training episodes.
        x_axis: which steps to plot against.
    """
    series = _series(metrics)
    figure = new_figure(6.4, 3.6)
    axes = figure.subplots()
    if train_metric in series:
        steps, values = series[train_metric].x(x_axis), series[train_metric].value
        axes.plot(steps, values, ".", color=COLOURS[5], markersize=3, alpha=0.5, label="training episodes")
        if len(values) >= 5:
            window = max(3, len(values) // 20)
            label = f"training, mean of {window} episodes"
            axes.plot(steps, _running_mean(values, window), color=COLOURS[0], label=label)
    evaluations = {"greedy": f"eval/{task}/return", "sampled": f"eval/{task}/return_sampled"}
    for (mode, name), colour, marker in zip(evaluations.items(), COLOURS[1:3], "os"):
        if name in series:
            steps, values = series[name].x(x_axis), series[name].value
            axes.plot(steps, values, marker=marker, markersize=4, color=colour, label=f"evaluation, {mode}")
    has_data = axes.has_data()
    known = {name: value for name, value in (baselines or {}).items() if value is not None}
    for (name, value), style in zip(known.items(), _BASELINE_STYLES * len(known)):
        axes.axhline(value, color="#666666", linewidth=1.1, linestyle=style, label=f"{name} ({value:.4g})")
    _finish(axes, has_data, "no returns were logged yet", x_axis, "score (game points)")
    return _save(figure, path, f"{task}: score during training", scale, seed)


@styled
def task_weight_traces(
    metrics: str | os.PathLike[str] | Mapping[str, Series],
    path: str | os.PathLike[str],
    *,
    scale: str,
    seed: int,
    windows: Sequence[tuple[float, float]] = (),
    threshold: float | None = None,
    x_axis: XAxis = "train_step",
) -> Path:
    """Draw the weight of every cross task above the cosine between its gradient and the target task's.

    Args:
        metrics: a run directory, its ``metrics.csv`` or what :func:`read_metrics` returned.
        path: picture to write.
        scale: name of the scale, for the title.
        seed: seed of the run, for the title.
        windows: ``(first, last)`` step of each measuring window, to be shaded.
        threshold: cosine above which a task counts as helpful.
        x_axis: which steps to plot against.
    """
    series = _series(metrics)
    figure = new_figure(6.4, 4.6)
    weights, cosines = figure.subplots(2, 1, sharex=True)
    prefixes = ("task_weight/", "grad_cos/")
    tasks = sorted({name.split("/", 1)[1] for name in series if name.startswith(prefixes)})
    for task, look in zip(tasks, line_looks(len(tasks))):
        if (weight := series.get(f"task_weight/{task}")) is not None:
            weights.step(weight.x(x_axis), weight.value, where="post", label=task, **look)
        if (cosine := series.get(f"grad_cos/{task}")) is not None:
            _smoothed(cosines, cosine.x(x_axis), cosine.value, task, look)
    for axes in (weights, cosines):
        for i, (first, last) in enumerate(windows):
            label = "measuring window" if i == 0 else None
            axes.axvspan(first, last, color="#000000", alpha=0.08, linewidth=0, label=label)
    if threshold is not None and tasks:
        cosines.axhline(threshold, color="#666666", linewidth=1.1, linestyle=(0, (5, 2)), label="threshold")
    has_weights = any(name.startswith("task_weight/") for name in series)
    has_cosines = any(name.startswith("grad_cos/") for name in series)
    weights.set_ylim(-0.05, 1.05)
    _finish(weights, has_weights, "no task weights were logged yet", x_axis, "task weight")
    _finish(cosines, has_cosines, "no gradient cosines were logged yet", x_axis, "gradient cosine")
    weights.set_xlabel("")
    return _save(figure, path, "Cross-task weights", scale, seed)


@styled
def loss_curves(
    metrics: str | os.PathLike[str] | Mapping[str, Series],
    path: str | os.PathLike[str],
    *,
    scale: str,
    seed: int,
    x_axis: XAxis = "train_step",
) -> Path:
    """Draw one panel per loss head: ``loss/<head>``, or ``loss/<task>/<head>`` with one line per task.

    Args:
        metrics: a run directory, its ``metrics.csv`` or what :func:`read_metrics` returned.
        path: picture to write.
        scale: name of the scale, for the title.
        seed: seed of the run, for the title.
        x_axis: which steps to plot against.
    """
    series = _series(metrics)
    heads: dict[str, dict[str, Series]] = {}
    for name, values in series.items():
        group, *parts, head = name.split("/")
        if group == "loss":
            heads.setdefault(head, {})["/".join(parts)] = values
    columns = min(3, max(1, len(heads)))
    rows = max(1, -(-len(heads) // columns))
    figure = new_figure(max(3.6, 2.7 * columns), 2.1 * rows + 0.6)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    tasks = sorted({task for lines in heads.values() for task in lines} - {""})
    looks = {"": {"color": "#000000"}, **dict(zip(tasks, line_looks(len(tasks))))}
    for axes, (head, lines) in zip(panels, heads.items()):
        for task, values in lines.items():
            _smoothed(axes, values.x(x_axis), values.value, task or None, looks[task])
        _finish(axes, True, "", x_axis, f"{head.replace('_', ' ')} loss")
    for axes in panels[len(heads) :]:
        axes.set_axis_off()
    if not heads:
        panels[0].set_axis_on()
        _finish(panels[0], False, "no losses were logged yet", x_axis, "loss")
    return _save(figure, path, "Losses by head", scale, seed)


def _series(metrics: str | os.PathLike[str] | Mapping[str, Series]) -> Mapping[str, Series]:
    return metrics if isinstance(metrics, Mapping) else read_metrics(metrics)


def new_figure(width: float, height: float) -> Figure:
    """Empty figure of that size in inches."""
    from matplotlib.figure import Figure

    # Without pyplot: always the Agg canvas, no window system, nothing global left open.
    return Figure(figsize=(width, height), layout="constrained")


def line_looks(count: int) -> list[dict[str, Any]]:
    """Colours and line styles that tell ``count`` lines apart."""
    styles = ("-", "--", "-.", ":")
    return [
        {"color": COLOURS[i % len(COLOURS)], "linestyle": styles[i // len(COLOURS) % len(styles)]}
        for i in range(count)
    ]


def _smoothed(
    axes: Axes, steps: np.ndarray, values: np.ndarray, label: str | None, look: dict[str, Any]
) -> None:
    """A line where points are few; else the running mean over the faint raw curve."""
    if len(values) < 40:
        axes.plot(steps, values, label=label, **look)
        return
    axes.plot(steps, values, color=look["color"], alpha=0.22, linewidth=0.6)
    axes.plot(steps, _running_mean(values, max(5, len(values) // 40)), label=label, **look)


def _running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last ``window`` finite values; shorter at the start."""
    finite = np.isfinite(values)
    total = np.cumsum(np.concatenate([[0.0], np.where(finite, values, 0.0)]))
    count = np.cumsum(np.concatenate([[0], finite]))
    last = np.arange(1, len(values) + 1)
    first = np.maximum(last - window, 0)
    number = count[last] - count[first]
    return np.where(number > 0, (total[last] - total[first]) / np.maximum(number, 1), np.nan)


def _finish(axes: Axes, has_data: bool, message: str, x_axis: XAxis, y_label: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_xlabel(STEP_LABELS[x_axis])
    axes.set_ylabel(y_label)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if not has_data:
        axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color="#666666")
        axes.tick_params(length=0, labelleft=False, labelbottom=False)
        axes.grid(False)


def _save(figure: Figure, path: str | os.PathLike[str], title: str, scale: str, seed: int) -> Path:
    figure.suptitle(f"{title}  (scale {scale}, seed {seed})", x=0.01, ha="left", fontsize=10)
    shared_legend(figure)
    return save_figure(figure, path)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure, making the folder; returns its path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def shared_legend(figure: Figure, *, below: int | None = None) -> None:
    """One legend beside all panels, or below them in so many columns, where it never covers a curve."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            handles.setdefault(label, handle)
    if handles:
        place: Any = "outside lower left" if below else "outside right upper"
        figure.legend(handles.values(), handles.keys(), loc=place, ncols=below or 1)
