"""How long many tasks take on several devices, where some wait for others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A run or an input of runs.

    Attributes:
        name: of it.
        seconds: on one device.
        after: names of those that have to be there before.
    """

    name: str
    seconds: float
    after: tuple[str, ...] = ()


def longest_chain(tasks: Sequence[Task]) -> float:
    """Seconds that no number of devices can shorten: the longest chain of tasks that wait for each other."""
    return max(_behind(tasks).values())


def makespan(tasks: Sequence[Task], devices: int) -> float:
    """Seconds until all tasks are done on so many devices, one task on each: those with most behind them first.

    Example:
        >>> chain = [Task("data", 2.0), Task("student", 1.0, ("data",)), Task("other", 2.0)]
        >>> makespan(chain, 1), makespan(chain, 2)
        (5.0, 3.0)
    """
    behind = _behind(tasks)
    waiting = sorted(tasks, key=lambda task: -behind[task.name])
    done: set[str] = set()
    running: list[tuple[float, str]] = []
    now = 0.0
    while waiting or running:
        for task in [task for task in waiting if done.issuperset(task.after)][: devices - len(running)]:
            waiting.remove(task)
            running.append((now + task.seconds, task.name))
        running.sort()
        now, name = running.pop(0)
        done.add(name)
    return now


def _behind(tasks: Sequence[Task]) -> dict[str, float]:
    """Seconds of the longest chain that begins with each task."""
    followers: dict[str, list[str]] = {task.name: [] for task in tasks}
    for task in tasks:
        for name in task.after:
            followers[name].append(task.name)
    seconds = {task.name: task.seconds for task in tasks}
    found: dict[str, float] = {}

    def longest(name: str) -> float:
        if name not in found:
            found[name] = seconds[name] + max(map(longest, followers[name]), default=0.0)
        return found[name]

    return {name: longest(name) for name in followers}
