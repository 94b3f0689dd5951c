"""A training that can die at any moment: what it needs to go on, saved now and then, and when it has to end."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch

from xtra_rl.distributed import any_rank, broadcast, gather, is_main
from xtra_rl.training.checkpoint import load_checkpoint, save_checkpoint
from xtra_rl.training.interrupt import Stopped, deferred, immediate, stop_requested

_logger = logging.getLogger(__name__)

_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[hms])+")


def parse_duration(text: str | float) -> float:
    """Seconds of ``"2h"``, ``"1h30m"``, ``"45s"`` or a plain number of seconds.

    Raises:
        ValueError: if it is none of these, or not positive.

    Example:
        >>> parse_duration("1h30m"), parse_duration(90)
        (5400.0, 90.0)
    """
    if isinstance(text, str) and _DURATION.fullmatch(text):
        parts = re.findall(r"([\d.]+)([hms])", text)
        seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    else:
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
    if not seconds > 0:
        raise ValueError(f"{text!r} is no duration; expected something like 2h, 1h30m, 45s or 90 (seconds)")
    return seconds


class Stateful(Protocol):
    """What a checkpoint holds."""

    def state_dict(self) -> Any:
        """What is to be saved."""

    def load_state_dict(self, state: Any) -> Any:
        """Restore :meth:`state_dict`."""


class TrainingSession:
    """Saves everything that changes while a run trains, restores it, and says when to end.

    A signal that asks the process to end (:mod:`~xtra_rl.training.interrupt`) waits until an iteration is over and
    saved. A checkpoint that cannot be written (disk full, folder read-only) costs a warning, not the training. Saving
    changes nothing of the run: with and without checkpoints it takes the same steps.

    Where several ranks of ``torch.distributed`` train, each has a session: the main one's clock counts and it alone
    writes, all restore what it wrote, and a signal to any of them ends all at the same position.

    Args:
        folder: of the checkpoints; see :func:`~xtra_rl.training.checkpoint.save_checkpoint`.
        components: by name, in the order in which they are restored.
        every: seconds between checkpoints; ``None`` saves only where asked, and before the process ends.
        keep: newest checkpoints that stay.
        keep_every: also save whenever another multiple of this position is reached, and keep that for good.
        budget: seconds of training, over all sittings, after which the run should end; ``None`` has no end.

    Attributes:
        marks: numbers of the training loop itself that go into checkpoints, such as when it evaluates next.

    Example:
        >>> import tempfile
        >>> model = torch.nn.Linear(1, 1)
        >>> with TrainingSession(tempfile.mkdtemp(), {"model": model}) as session:
        ...     start = session.restore()
        ...     for position in range(start + 1, 4):
        ...         if session.ends_after(position):
        ...             break
        ...     _ = session.save(position)
        >>> TrainingSession(session.folder, {"model": model}).restore()
        3
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        components: Mapping[str, Stateful],
        *,
        every: float | None = None,
        keep: int = 2,
        keep_every: int | None = None,
        budget: float | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.components = {**components, "session": self}
        self.every = every
        self.keep = keep
        self.keep_every = keep_every
        self.budget = budget
        self.marks: dict[str, float] = {}
        self._saved_at: int | None = None
        self._is_current = False
        self._tried_at = 0
        self._earlier_seconds = 0.0
        self._start = self._last_save = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time of this training in all its sittings, as far as they were saved."""
        return self._earlier_seconds + time.monotonic() - self._start

    @property
    def budget_is_spent(self) -> bool:
        """Whether the run should come to its end, by the main rank's clock."""
        return self.budget is not None and broadcast(self.seconds >= self.budget)

    @property
    def saved_at(self) -> int | None:
        """Position of the newest checkpoint that this session wrote or read."""
        return self._saved_at

    def restore(self) -> int:
        """Load the newest good checkpoint; returns its position, 0 if there is none.

        Raises:
            ValueError: if no checkpoint is whole, or the ranks of a run found different ones.
        """
        # Playing recorded actions again takes a while, and there is nothing to keep before it has ended.
        with immediate():
            found = load_checkpoint(self.folder, self.components)
            positions = gather(torch.tensor([-1 if found is None else found.step])).tolist()
        if len(set(positions)) > 1:
            shown = ", ".join("none" if position < 0 else str(position) for position in positions)
            raise ValueError(
                f"the ranks found different checkpoints in {self.folder} ({shown}); every process must see the same"
                " run directory and artifacts, on a file system that all machines share"
            )
        self._saved_at, self._is_current = (found.step, True) if found is not None else (None, False)
        return found.step if found is not None else 0

    def save(self, position: int) -> bool:
        """Write a checkpoint unless it would be the same again; returns whether it is on disk now."""
        self._tried_at = position
        if self._is_current and self._saved_at == position:
            return True
        if not is_main():
            self._saved_at, self._is_current = position, True
            return True
        try:
            save_checkpoint(
                self.folder, self.components, step=position, keep=self.keep, keep_every=self.keep_every
            )
        except OSError as error:
            _logger.warning(
                "no checkpoint at %d (%s); training goes on, and a kill now would cost the steps since %s",
                position,
                error,
                "the start" if self._saved_at is None else self._saved_at,
            )
            return False
        finally:
            # A disk that is full is not tried again at once.
            self._last_save = time.monotonic()
        self._saved_at, self._is_current = position, True
        return True

    def ends_after(self, position: int) -> bool:
        """Save if it is time; call after every iteration.

        Returns:
            whether the budget is spent, so that the run should come to its end.

        Raises:
            Stopped: if a signal asked for it; the position is saved then.
        """
        name = stop_requested()
        if any_rank(name is not None):
            self.save(position)
            raise Stopped(name or "SIGTERM")
        if self.budget_is_spent:
            return True
        waited = self.every is not None and time.monotonic() - self._last_save >= self.every
        if waited or self._reaches_multiple(position):
            self.save(position)
        return False

    def _reaches_multiple(self, position: int) -> bool:
        if self.keep_every is None:
            return False
        # Also where it could not be saved, since a disk that is full is not tried again at every step.
        before = max(self._saved_at or 0, self._tried_at)
        return position // self.keep_every > before // self.keep_every

    @contextmanager
    def interlude(self, position: int) -> Iterator[None]:
        """Long work that trains nothing, such as an evaluation: saved before it, it may be cut anywhere."""
        self.save(position)
        with immediate():
            yield
        self._is_current = False

    def __enter__(self) -> TrainingSession:
        self._deferred = deferred()
        self._deferred.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._deferred.__exit__(*error)

    def state_dict(self) -> dict[str, Any]:
        """Wall time, marks and the process's random states, in case a part of yours draws from them."""
        state = {"seconds": self.seconds, "marks": dict(self.marks), "torch": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._earlier_seconds = float(state["seconds"])
        self._start = self._last_save = time.monotonic()
        self.marks = dict(state["marks"])
        torch.set_rng_state(state["torch"].cpu())
        if "cuda" in state and torch.cuda.device_count() == len(state["cuda"]):
            torch.cuda.set_rng_state_all([each.cpu() for each in state["cuda"]])
