"""One progress display for every long loop: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Generic, Protocol, TextIO, TypeVar, overload

from xtra_rl.distributed import is_main

T = TypeVar("T")


class _Display(Protocol):
    n: int

    def update(self, n: int) -> Any: ...
    def unpause(self) -> Any: ...
    def set_postfix(self, **values: Any) -> Any: ...
    def close(self) -> None: ...


class Progress(Generic[T]):
    """A progress display that is iterated over or moved by hand; made by :func:`progress`.

    Example:
        >>> bar: Progress[str] = progress(["pong", "alien"], description="play", unit="game", disable=True)
        >>> [game for game in bar], bar.n
        (['pong', 'alien'], 2)
    """

    def __init__(self, iterable: Iterable[T] | None, display: _Display) -> None:
        self._iterable = iterable
        self._display = display

    @property
    def n(self) -> int:
        """Units done so far."""
        return self._display.n

    def update(self, n: int = 1) -> None:
        """Advance by ``n`` units."""
        self._display.update(n)

    def unpause(self) -> None:
        """Go on after other work, such as an evaluation, whose time does not belong to the units."""
        self._display.unpause()

    def set_postfix(self, **values: Any) -> None:
        """Show these values behind the rate until the next call."""
        self._display.set_postfix(**values)

    def close(self) -> None:
        """Show the final state; further calls do nothing."""
        self._display.close()

    def __iter__(self) -> Iterator[T]:
        if self._iterable is None:
            raise ValueError(
                "this progress was given a total, not an iterable; call update(n), or pass the iterable"
            )
        with self:
            for item in self._iterable:
                yield item
                self.update(1)

    def __enter__(self) -> Progress[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@overload
def progress(
    iterable_or_total: int | None,
    *,
    description: str,
    unit: str,
    total: int | None = None,
    disable: bool | None = None,
    file: TextIO | None = None,
    line_interval: float = 10.0,
    initial: int = 0,
) -> Progress[Any]: ...


@overload
def progress(
    iterable_or_total: Iterable[T],
    *,
    description: str,
    unit: str,
    total: int | None = None,
    disable: bool | None = None,
    file: TextIO | None = None,
    line_interval: float = 10.0,
    initial: int = 0,
) -> Progress[T]: ...


def progress(
    iterable_or_total: Iterable[T] | int | None,
    *,
    description: str,
    unit: str,
    total: int | None = None,
    disable: bool | None = None,
    file: TextIO | None = None,
    line_interval: float = 10.0,
    initial: int = 0,
) -> Progress[T]:
    """Show the rate and the remaining time of a loop.

    In a terminal this is a tqdm bar. Where the output is a file or a pipe (CI, nohup), a plain line is
    written at most every ``line_interval`` seconds, and one at the end.

    Args:
        iterable_or_total: what to iterate over, or the number of units for a display moved by ``update(n)``;
            ``None`` where the number is not known.
        description: what is being done, e.g. ``"finetune assault"``.
        unit: name of one unit, e.g. ``"step"``.
        total: number of units, where the iterable has no length.
        disable: show nothing. ``None`` asks the environment variable ``TQDM_DISABLE``; of several ranks that train one
            model, the main one alone shows anything.
        file: where to write; default standard error.
        line_interval: seconds between two plain lines.
        initial: units that were done before, which count for the share but not for the rate.

    Example:
        >>> with progress(3, description="count", unit="step", disable=True) as bar:
        ...     for _ in range(3):
        ...         bar.update()
        ...     bar.n
        3
    """
    iterable: Iterable[T] | None = None
    if iterable_or_total is None or isinstance(iterable_or_total, int):
        total = iterable_or_total if total is None else total
    else:
        iterable = iterable_or_total
        if total is None and isinstance(iterable, Sized):
            total = len(iterable)
    if disable is None:
        disable = os.environ.get("TQDM_DISABLE", "").lower() in ("1", "true", "yes", "on") or not is_main()

    file = sys.stderr if file is None else file
    display: _Display
    if disable:
        display = _Silent(initial)
    elif getattr(file, "isatty", lambda: False)():
        from tqdm.auto import tqdm

        display = tqdm(
            total=total, desc=description, unit=unit, file=file, dynamic_ncols=True, initial=initial
        )
    else:
        display = _Lines(
            total, description=description, unit=unit, file=file, interval=line_interval, initial=initial
        )
    return Progress(iterable, display)


class _Silent:
    def __init__(self, initial: int) -> None:
        self.n = initial

    def update(self, n: int) -> None:
        self.n += n

    def unpause(self) -> None:
        pass

    def set_postfix(self, **values: Any) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    """Plain lines for logs, with the rate of the recent past (a loop changes speed when learning starts).

    The recent past is the time since the last line, or longer, so that it holds some units: of jobs that take minutes
    two can end in one breath. Other work in between is left out of the rate; it is expected to come again, as often as
    it came since the first unit.
    """

    _FEWEST = 8

    def __init__(
        self,
        total: int | None,
        *,
        description: str,
        unit: str,
        file: TextIO,
        interval: float,
        initial: int,
    ) -> None:
        self.n = self._initial = initial
        self._total = total
        self._description, self._unit = description, unit
        self._file, self._interval = file, interval
        self._postfix = ""
        self._start = self._last = time.monotonic()
        self._marks = deque([(self._start, initial)])
        self._pauses = self._pauses_within = 0.0  # seconds: all, and those since the first unit
        self._closed = False

    def update(self, n: int) -> None:
        self.n += n
        self._last = now = time.monotonic()
        if now - self._marks[-1][0] >= self._interval:
            while len(self._marks) > 1 and self.n - self._marks[1][1] >= self._FEWEST:
                self._marks.popleft()
            since, before = self._marks[0]
            self._write((self.n - before) / (now - since))
            self._marks.append((now, self.n))

    def unpause(self) -> None:
        now = time.monotonic()
        pause, self._last = now - self._last, now
        self._marks = deque((since + pause, before) for since, before in self._marks)
        self._pauses += pause
        self._pauses_within += pause if self.n > self._initial else 0

    def set_postfix(self, **values: Any) -> None:
        self._postfix = "".join(
            f", {name} {value:.4g}" if isinstance(value, float) else f", {name} {value}"
            for name, value in values.items()
        )

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            elapsed = time.monotonic() - self._start
            rate = (self.n - self._initial) / max(elapsed - self._pauses, 1e-9)
            self._write(rate, f", took {_duration(elapsed)}")

    def _write(self, rate: float, ending: str = "") -> None:
        count = f"{self.n}" if self._total is None else f"{self.n}/{self._total}"
        share = f" ({self.n / self._total:.0%})" if self._total else ""
        left = ""
        if self._total and not ending and rate > 0:
            seconds = 1 / rate + self._pauses_within / (self.n - self._initial)
            left = f", {_duration(max(self._total - self.n, 0) * seconds)} left"
        if 0 < rate < 0.1:
            speed = f"{1 / rate:.3g} s/{self._unit}"
        else:
            speed = f"{rate:.3g} {self._unit}/s" if rate < 1000 else f"{rate:.0f} {self._unit}/s"
        state = f"{count} {self._unit}{share}, {speed}{left}{ending}{self._postfix}"
        self._file.write(f"{self._description}: {state}\n")
        self._file.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
