"""Rules for task weights by name, as recipes know them; yours among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xtra_rl.transfer.surgery import GradVac, PCGrad
from xtra_rl.transfer.task_weights import TaskWeightScheduler
from xtra_rl.transfer.weighting import TaskWeighting

MakeTaskWeighting = Callable[[Sequence[str], Mapping[str, Any], int], TaskWeighting]
"""Makes a rule from the cross tasks, the settings ``task_weight_schedule`` and a seed."""


def _schedule(**fixed: str) -> MakeTaskWeighting:
    return lambda tasks, settings, seed: TaskWeightScheduler(tasks, **{**settings, **fixed})


_RULES: dict[str, MakeTaskWeighting] = {
    "cosine": _schedule(),
    "soft_cosine": _schedule(estimator="soft"),
    "constant": _schedule(estimator="constant"),
    "pcgrad": lambda tasks, settings, seed: PCGrad(tasks, window=settings["window"], seed=seed),
    "gradvac": lambda tasks, settings, seed: GradVac(tasks, window=settings["window"], seed=seed),
}


def register_task_weighting(name: str, make: MakeTaskWeighting) -> None:
    """Let recipes know a rule of yours: ``plugins=[my_rule.py] task_weighting=<name>``.

    Args:
        name: what ``task_weighting`` calls it.
        make: from the names of the cross tasks, the settings ``task_weight_schedule`` (``start``, ``cycle``,
            ``window``, ``threshold``, ...) and a seed, the rule.

    Raises:
        ValueError: if the name is taken.

    Example:
        >>> class LeaveOut(TaskWeighting):
        ...     def combine(self, coefficients, gram):
        ...         return coefficients * (gram[0] > 0)
        >>> register_task_weighting("leave_out", lambda tasks, settings, seed: LeaveOut(tasks))
        >>> make_task_weighting("leave_out", ["phoenix"], settings={}).tasks
        ('phoenix',)
    """
    if name in _RULES:
        raise ValueError(f"a rule for task weights is called {name!r} already; choose another name")
    _RULES[name] = make


def task_weighting_names() -> tuple[str, ...]:
    """Names of all rules.

    Example:
        >>> task_weighting_names()[:5]
        ('cosine', 'soft_cosine', 'constant', 'pcgrad', 'gradvac')
    """
    return tuple(_RULES)


def make_task_weighting(
    name: str, tasks: Sequence[str], *, settings: Mapping[str, Any], seed: int = 0
) -> TaskWeighting:
    """A rule by its name.

    Args:
        name: one of :func:`task_weighting_names`.
        tasks: names of the cross tasks.
        settings: of the schedule, as the arguments of :class:`TaskWeightScheduler`.
        seed: of rules that draw.

    Raises:
        ValueError: if no rule is called so.

    Example:
        >>> make_task_weighting("cosine", ["phoenix"], settings={"start": 0, "window": 4, "cycle": 10}).weights
        {'phoenix': 1.0}
    """
    if name not in _RULES:
        raise ValueError(f"task_weighting is {name!r}; expected one of {', '.join(_RULES)}")
    return _RULES[name](tasks, settings, seed)
