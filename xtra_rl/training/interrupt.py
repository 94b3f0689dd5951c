"""SIGTERM and Ctrl-C end a training where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a run to end: a scheduler (SLURM, Kubernetes) by SIGTERM, a person by Ctrl-C."""


class Stopped(BaseException):
    """The process was asked to end. Not an ``Exception``: what guards against failures must let it pass.

    Attributes:
        signal_name: ``"SIGTERM"`` or ``"SIGINT"``.
        exit_code: 0 after SIGTERM, as schedulers expect of a run that has kept its state; 130 after Ctrl-C.
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.signal_name = signal_name
        self.exit_code = 130 if signal_name == "SIGINT" else 0

    def __reduce__(self) -> tuple[type[Stopped], tuple[str]]:
        return Stopped, (self.signal_name,)  # another process raises it too


# Signals belong to the process, and so does what is known of them.
_requested: str | None = None
_depth = 0


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _requested
    name = signal.Signals(number).name
    if _depth and (_requested is None or name == "SIGTERM"):
        # Schedulers send SIGTERM to all processes of a job, and parents pass it on: a second one is no haste.
        _requested = _requested or name
    else:
        # Nothing has to be kept here, or it takes too long for somebody who presses Ctrl-C twice.
        _requested = None
        raise Stopped(name)


@contextmanager
def stop_signals() -> Iterator[None]:
    """Raise :class:`Stopped` on a signal of :data:`SIGNALS`, at once or where :func:`deferred` ends.

    Outside of the main thread, which alone receives signals, this does nothing.

    Example:
        >>> import os
        >>> try:
        ...     with stop_signals():
        ...         os.kill(os.getpid(), signal.SIGTERM)
        ... except Stopped as stop:
        ...     print(stop, stop.exit_code)
        stopped by SIGTERM 0
    """
    global _requested
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _on_signal) for number in SIGNALS}
    try:
        yield
    finally:
        _requested = None
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait: ask :func:`stop_requested` at good places; what still waits is raised at the end.

    Ctrl-C after another signal does not wait.

    Example:
        >>> import os
        >>> try:
        ...     with stop_signals(), deferred():
        ...         os.kill(os.getpid(), signal.SIGTERM)
        ...         print(stop_requested(), "waits until all is saved")
        ... except Stopped as stop:
        ...     print(stop)
        SIGTERM waits until all is saved
        stopped by SIGTERM
    """
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
    _raise_waiting()


@contextmanager
def immediate() -> Iterator[None]:
    """Inside of :func:`deferred`: signals raise at once again, for long work that may be cut anywhere.

    Example:
        >>> import os
        >>> try:
        ...     with stop_signals(), deferred(), immediate():
        ...         os.kill(os.getpid(), signal.SIGINT)
        ...         print("never reached")
        ... except Stopped as stop:
        ...     print(stop, stop.exit_code)
        stopped by SIGINT 130
    """
    global _depth
    before, _depth = _depth, 0
    try:
        _raise_waiting()
        yield
    finally:
        _depth = before


def stop_requested() -> str | None:
    """Name of the signal that waits, if one does."""
    return _requested


def _raise_waiting() -> None:
    global _requested
    if _requested is not None and not _depth:
        name, _requested = _requested, None
        raise Stopped(name)
