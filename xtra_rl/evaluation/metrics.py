"""Scores made comparable between games."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from xtra_rl.envs.scores import THIRD_PARTY_SCORES
from xtra_rl.envs.tasks import TaskSpec, get_task


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


def task_human_normalized(task: str, score: float) -> float | None:
    """:func:`human_normalized` with the scores of the task table, or ``None`` where published work has none.

    Carnival and Pooyan have none, nor has a task of the user's own that was registered without them, or in another
    process.

    Args:
        task: name of a task.
        score: mean raw return.

    Example:
        >>> task_human_normalized("pong", 14.6), task_human_normalized("carnival", 700.8)
        (1.0, None)
    """
    try:
        spec = get_task(task)
    except ValueError:
        return None
    if not _comparable(spec):
        return None
    return human_normalized(score, spec.random_score, spec.human_score)  # type: ignore[arg-type]


def _comparable(spec: TaskSpec, third_party: bool = False) -> bool:
    """Whether a task has scores to normalise with, and published work uses them (or ``third_party`` ones may do)."""
    known = spec.random_score is not None and spec.human_score is not None
    return known and (third_party or spec.name not in THIRD_PARTY_SCORES)


def human_normalized_scores(
    scores: Mapping[str, Sequence[float]], *, third_party: bool = False
) -> dict[str, list[float]]:
    """:func:`human_normalized` for the runs of several tasks, with the scores of the task table.

    Args:
        scores: raw returns by task, one for each run.
        third_party: also normalise ``carnival`` and ``pooyan``, whose human scores come from a table that published
            results do not use.

    Raises:
        ValueError: if a task is unknown or has no published human score.

    Example:
        >>> human_normalized_scores({"pong": [-20.7, 14.6]})
        {'pong': [0.0, 1.0]}
    """
    specs = {task: get_task(task) for task in scores}
    unpublished = [task for task, spec in specs.items() if not _comparable(spec, third_party)]
    if unpublished:
        raise ValueError(
            f"scores have tasks without a published human score: {', '.join(unpublished)}; leave them out, or pass "
            f"third_party=True for {' and '.join(sorted(THIRD_PARTY_SCORES))}"
        )
    return {
        task: [human_normalized(run, specs[task].random_score, specs[task].human_score) for run in runs]  # type: ignore[arg-type]
        for task, runs in scores.items()
    }


def efficientzero_normalized_scores(
    scores: Mapping[str, Sequence[float]], efficientzero: Mapping[str, float]
) -> dict[str, list[float]]:
    r"""Scores in units of EfficientZero's mean score on the same task.

    .. math:: s / \bar s_\mathrm{EfficientZero}

    XTRA (arXiv:2210.10763), figure 1 and table 1. The reference is taken as exact: its own spread is in no interval
    that is computed from the result.

    Args:
        scores: raw returns by task, one for each run.
        efficientzero: EfficientZero's mean return by task, or that of any other baseline; further tasks are ignored.

    Raises:
        ValueError: if the baseline lacks a task, or its score is not positive.

    Example:
        >>> efficientzero_normalized_scores({"assault": [1294.6]}, {"assault": 1027.1})["assault"]  # XTRA, table 1
        [1.26...]
    """
    for task in scores:
        reference = efficientzero.get(task)
        if reference is None:
            raise ValueError(f"efficientzero has no score for {task!r}; it has {', '.join(efficientzero)}")
        if not (math.isfinite(reference) and reference > 0):
            raise ValueError(
                f"efficientzero[{task!r}]={reference} must be positive to be a unit; leave the task out"
            )
    return {task: [run / efficientzero[task] for run in runs] for task, runs in scores.items()}
