"""Scores made comparable between games."""

from __future__ import annotations

import math
from typing import NamedTuple


class TaskScore(NamedTuple):
    """What an agent scored on one task.

    ``mode`` is ``greedy`` or ``sampled``, empty for a baseline. ``returns`` holds every episode, and nothing where only
    the mean is known. ``human_normalized`` is ``None`` for a task without published scores.
    """

    task: str
    mode: str
    mean_return: float
    human_normalized: float | None = None
    returns: tuple[float, ...] = ()


def human_normalized(score: float, random: float, human: float) -> float:
    r"""Score on a scale where random play is 0 and a human tester is 1.

    .. math:: \mathrm{HNS} = (s - s_\mathrm{random}) / (s_\mathrm{human} - s_\mathrm{random})

    Mnih et al., "Human-level control through deep reinforcement learning" (2015).

    Args:
        score: mean raw return.
        random: score of random play on the same task.
        human: score of a human on the same task.

    Raises:
        ValueError: if a number is missing or not finite, or ``human`` is not above ``random``.

    Example:
        >>> round(human_normalized(1294.6, random=222.4, human=742.0), 3)
        2.064
    """
    for name, value in {"score": score, "random": random, "human": human}.items():
        if value is None or not math.isfinite(value):
            raise ValueError(f"{name}={value} is not a finite number; skip tasks without published scores")
    if human <= random:
        raise ValueError(f"human={human} must be above random={random}; check the order of the arguments")
    return (score - random) / (human - random)
