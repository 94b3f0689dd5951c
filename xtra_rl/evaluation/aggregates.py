"""What the scores of several tasks and seeds say together, and how sure one can be of it.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice" (2021, arXiv:2108.13264). The
conventions are those of its library, rliable.

``scores`` maps each task to the scores of its runs, one for each seed; normalise them first where tasks are averaged
(:mod:`xtra_rl.evaluation.metrics`). Tasks may have different numbers of runs: a missing run is left out, never filled
in. A task counts once, however many runs it has, in :func:`mean`, :func:`median`, :func:`optimality_gap`,
:func:`probability_of_improvement` and :func:`relative_improvement`; a run counts once, so that a task with fewer runs
weighs less, in :func:`interquartile_mean`.

The scores of a task may also be an array ``[..., runs]``; the result is then ``[...]``, and a float without leading
axes. :func:`stratified_bootstrap` computes all its draws in one call that way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Scores: TypeAlias = Mapping[str, npt.ArrayLike]
#: A float, or an array ``[...]`` where the scores have leading axes.
Estimate: TypeAlias = Any
Statistic: TypeAlias = Callable[..., Estimate]


class Interval(NamedTuple):
    """A point estimate and the bounds of its interval."""

    value: float
    low: float
    high: float


def mean(scores: Scores) -> Estimate:
    r"""Mean over tasks of the mean over runs.

    .. math:: \frac{1}{M} \sum_m \bar x_m, \qquad \bar x_m = \frac{1}{N_m} \sum_n x_{m,n}

    Agarwal et al. 2021. A single task far above the others can carry it.

    Raises:
        ValueError: if there is no task, a task has no run, or a score is not finite.

    Example:
        >>> mean({"alien": [1.0, 3.0], "pong": [5.0]})
        3.5
    """
    return _estimate(np.mean(_task_means(scores), axis=0))


def median(scores: Scores) -> Estimate:
    r"""Median over tasks of the mean over runs, :math:`\mathrm{median}_m\, \bar x_m`.

    Agarwal et al. 2021. Scores of zero on nearly half of the tasks do not change it.

    Raises:
        ValueError: as :func:`mean`.

    Example:
        >>> median({"alien": [1.0, 3.0], "pong": [5.0], "qbert": [90.0]})
        5.0
    """
    return _estimate(np.median(_task_means(scores), axis=0))


def interquartile_mean(scores: Scores) -> Estimate:
    r"""Mean of the middle half of all runs of all tasks, pooled.

    Of :math:`N = \sum_m N_m` runs the lowest and the highest :math:`\lfloor N / 4 \rfloor` are left out, as
    ``scipy.stats.trim_mean(x, 0.25)`` does. Agarwal et al. 2021, section 4.

    Raises:
        ValueError: as :func:`mean`.

    Example:
        >>> interquartile_mean({"alien": [1, 2, 3, 4], "pong": [5, 6, 7, 80]})
        4.5
    """
    runs = np.sort(np.concatenate(list(_cells(scores).values()), axis=-1), axis=-1)
    cut = runs.shape[-1] // 4
    return _estimate(runs[..., cut : runs.shape[-1] - cut].mean(-1))


def optimality_gap(scores: Scores, gamma: float = 1.0) -> Estimate:
    r"""How far runs stay below ``gamma`` on average; lower is better, what exceeds ``gamma`` earns nothing.

    .. math:: \gamma - \frac{1}{M} \sum_m \frac{1}{N_m} \sum_n \min(x_{m,n}, \gamma)

    Agarwal et al. 2021, section 4; 1 is human play for human-normalised scores.

    Args:
        scores: by task, ``[..., runs]``.
        gamma: the score that is good enough.

    Raises:
        ValueError: as :func:`mean`.

    Example:
        >>> optimality_gap({"alien": [0.5, 9.0], "pong": [0.25]})
        0.5
    """
    capped = {task: np.minimum(runs, gamma) for task, runs in _cells(scores).items()}
    return _estimate(gamma - np.mean(_task_means(capped), axis=0))


def probability_of_improvement(x: Scores, y: Scores) -> Estimate:
    r"""How likely a run of X beats a run of Y on a task drawn at random; a tie counts half.

    .. math:: \frac{1}{M} \sum_m \frac{1}{N_m K_m} \sum_{n,k}
        \left( [x_{m,n} > y_{m,k}] + \tfrac{1}{2} [x_{m,n} = y_{m,k}] \right)

    The Mann-Whitney statistic of each task, averaged: Agarwal et al. 2021, section 4. Scores need no normalisation,
    and by how much X wins does not matter.

    Args:
        x: by task, ``[..., runs]``.
        y: the same tasks; numbers of runs may differ.

    Raises:
        ValueError: as :func:`mean`, or if the tasks differ.

    Example:
        >>> probability_of_improvement({"alien": [2.0, 4.0]}, {"alien": [1.0, 2.0, 3.0]})
        0.75
    """
    wins = []
    for ours, theirs in _pairs(x, y):
        ours, theirs = ours[..., :, None], theirs[..., None, :]
        wins.append(((ours > theirs) + 0.5 * (ours == theirs)).mean((-2, -1)))
    return _estimate(np.mean(wins, axis=0))


def relative_improvement(x: Scores, y: Scores) -> Estimate:
    r"""Mean over tasks of how much of Y's mean X gains.

    .. math:: \frac{1}{M} \sum_m \frac{\bar x_m - \bar y_m}{\bar y_m}

    XTRA's headline (arXiv:2210.10763): +23 % on EfficientZero over the ten games of table 1.

    Args:
        x: by task, ``[..., runs]``.
        y: the baseline on the same tasks.

    Raises:
        ValueError: as :func:`mean`, if the tasks differ, or if a mean of Y is not positive. In a bootstrap the mean of
            a draw must be positive too; a ratio to a baseline that can be zero has no interval.

    Example:
        >>> relative_improvement({"alien": [3.0]}, {"alien": [1.0, 3.0]})
        0.5
    """
    gains = []
    for ours, theirs in _pairs(x, y):
        baseline = theirs.mean(-1)
        if (baseline <= 0).any():
            raise ValueError(
                f"y has a task with mean {baseline.min():g}; a relative improvement needs a baseline above zero: "
                "use probability_of_improvement"
            )
        gains.append(ours.mean(-1) / baseline - 1)
    return _estimate(np.mean(gains, axis=0))


def stratified_bootstrap(
    statistic: Statistic, *scores: Scores, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> Interval:
    """Percentile interval of a statistic: runs are drawn anew, with replacement, within each task.

    Agarwal et al. 2021, section 4. Several ``scores`` (X and Y) are all drawn anew, independently. The same
    arguments give the same interval, in whatever order tasks and runs come.

    Intervals of few runs are too short, since draws spread by sqrt(1 - 1/n) less than runs: with ten tasks of 5 runs a
    95 % interval of the mean covers 91 %. A single run does not vary at all: if every task has one, the interval is a
    point and means nothing. An interval of a biased statistic (median, interquartile mean) need not contain its value.

    Args:
        statistic: of as many ``scores`` as are given; reads ``[draws, runs]`` for each task, returns ``[draws]``.
        *scores: by task, ``[runs]``.
        level: coverage, between 0 and 1.
        draws: at least 1.
        seed: of the draws.

    Raises:
        ValueError: if an option is out of range, ``scores`` have leading axes, or as the statistic.

    Example:
        >>> value, low, high = stratified_bootstrap(mean, {"alien": [0.0, 1.0], "pong": [0.0, 1.0]}, level=0.8)
        >>> value, low, high
        (0.5, 0.25, 0.75)
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level} must lie between 0 and 1, such as 0.95")
    if draws < 1:
        raise ValueError(f"draws={draws} must be at least 1")
    rng = np.random.default_rng(seed)
    resampled = [
        {task: _resample(task, runs, draws, rng) for task, runs in _cells(one).items()} for one in scores
    ]
    low, high = np.quantile(statistic(*resampled), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(*scores)), float(low), float(high))


def _resample(task: str, runs: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    if runs.ndim > 1:
        raise ValueError(
            f"scores of {task!r} have shape {list(runs.shape)}; the bootstrap draws from [runs], one score each"
        )
    return np.sort(runs)[rng.integers(0, len(runs), (draws, len(runs)))]


def _estimate(value: Any) -> Estimate:
    value = np.asarray(value)
    return value if value.ndim else value.item()


def _task_means(scores: Scores) -> list[np.ndarray]:
    return [runs.mean(-1) for runs in _cells(scores).values()]


def _pairs(x: Scores, y: Scores) -> list[tuple[np.ndarray, np.ndarray]]:
    ours, theirs = _cells(x), _cells(y)
    if odd := sorted(set(ours) ^ set(theirs)):
        raise ValueError(f"x and y must have the same tasks; only one of them has {', '.join(odd)}")
    return [(ours[task], theirs[task]) for task in ours]


def _cells(scores: Scores) -> dict[str, np.ndarray]:
    """Checked arrays ``[..., runs]`` of float64, in the order of the tasks' names."""
    if not scores:
        raise ValueError("scores hold no task; expected at least one with at least one run")
    cells = {task: np.asarray(runs, np.float64) for task, runs in sorted(scores.items())}
    for task, runs in cells.items():
        if runs.ndim == 0:
            raise ValueError(
                f"scores of {task!r} are {runs.item()}; expected a sequence, one score for each run"
            )
        if not runs.size:
            raise ValueError(f"scores of {task!r} are empty; leave a task without runs out")
        if not np.isfinite(runs).all():
            bad = runs[~np.isfinite(runs)][0]
            raise ValueError(f"scores of {task!r} hold {bad}, which is not finite; leave a missing run out")
    return cells
