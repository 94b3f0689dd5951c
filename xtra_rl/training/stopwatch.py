"""Where the time of a training loop goes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Stopwatch:
    """Seconds by phase since the last reading.

    The phases of a training loop are ``act``, ``sample`` (windows and priorities of replay), ``wait`` (for windows that
    a thread draws), ``reanalyse`` (targets), ``forward_backward`` and ``optimiser``. A GPU works on after a phase has
    ended: there the times are the host's, and the device's shows where the host waits for it.

    Attributes:
        env_steps, train_steps: taken since the last reading.

    Example:
        >>> watch = Stopwatch()
        >>> watch.time("act", lambda: "result of the work")
        'result of the work'
        >>> list(watch.read())
        ['act']
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self.env_steps = self.train_steps = 0

    def time(self, phase: str, work: Callable[[], T]) -> T:
        """Run ``work`` and add its wall time to ``phase``."""
        start = time.perf_counter()
        result = work()
        self._seconds[phase] += time.perf_counter() - start
        return result

    def read(self) -> dict[str, float]:
        """Seconds by phase since the last reading."""
        out = dict(self._seconds)
        self._seconds.clear()
        self.env_steps = self.train_steps = 0
        return out
