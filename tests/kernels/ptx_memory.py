"""Memory of the PTX emulator: every access is checked for its bounds and against those of other threads."""

from __future__ import annotations

import numpy as np
from ptx_operations import PtxError


class BoundsError(PtxError):
    """A thread went to an address that is not in any argument, or not aligned."""


class RaceError(PtxError):
    """What two threads do to the same byte has a result that depends on which comes first."""


class Memory:
    """Bytes that all threads see.

    Each byte knows the thread that has written it last, and when. Time is counted in barriers: nothing orders what
    two threads do in the same interval, or in two programs. A load after such a store of another thread is an error
    at once, and so are two stores of different values. A load *before* another thread's store is only reported, by
    :meth:`barrier`: it does no harm where the thread does nothing with the value.

    Args:
        regions: begin and bytes of what exists; the arrays are changed in place by :meth:`write_back`.
        first_address: of byte 0.
        name: for messages.
    """

    def __init__(self, regions: dict[int, np.ndarray], *, first_address: int = 0, name: str) -> None:
        size = max([16] + [begin + len(array) for begin, array in regions.items()])
        self._regions, self._first, self._name = regions, first_address, name
        self._data, self._exists = np.zeros(size, np.uint8), np.zeros(size, bool)
        self._writer, self._written = np.zeros(size, np.int32), np.zeros(size, np.int32)
        self._loads: list[tuple[int, np.ndarray, np.ndarray]] = []
        self._all_loads: list[tuple[str, np.ndarray, np.ndarray]] = []
        self._interval = self._program = 1
        for begin, array in regions.items():
            self._exists[begin : begin + len(array)] = True
        self.restore(list(regions.values()))

    def load(self, step: int, text: str, address: np.ndarray, size: int, thread: np.ndarray) -> np.ndarray:
        """Bytes ``[threads, size]`` that the threads (counted from 1) find at their addresses."""
        place = self._place(text, address, size)
        if self._clashes(place, thread).any():
            raise RaceError(f"a thread loads what another has stored, with no barrier between: {text}")
        self._loads.append((step, place, thread))
        self._all_loads.append((text, place, thread))
        return self._data[place]

    def store(self, text: str, address: np.ndarray, values: np.ndarray, thread: np.ndarray) -> None:
        """Write bytes ``[threads, size]``."""
        place = self._place(text, address, values.shape[1])
        if (self._clashes(place, thread) & (self._data[place] != values)).any():
            raise RaceError(f"two threads store different values, with no barrier between: {text}")
        self._data[place] = values
        if (self._data[place] != values).any():
            raise RaceError(f"two threads store different values at once: {text}")
        self._writer[place] = thread[:, None]
        self._written[place] = self._interval

    def begin_program(self) -> None:
        """What was stored until now is another program's."""
        self._interval += 1
        self._program = self._interval

    def barrier(self) -> dict[int, np.ndarray]:
        """Begin the next interval; returns the loads of the last one that a store of another thread has followed.

        They are steps with the threads, ``[threads]`` bool.
        """
        late = {}
        for step, place, thread in self._loads:
            if (clashes := self._clashes(place, thread)).any():
                late[step] = clashes.any(axis=1)
        self._loads.clear()
        self._interval += 1
        return late

    def check_programs(self, threads: int) -> None:
        """Require that no program has loaded what a later one has stored."""
        for text, place, thread in self._all_loads:
            writer = self._writer[place]
            if ((writer > 0) & ((writer - 1) // threads != (thread[:, None] - 1) // threads)).any():
                raise RaceError(f"a program loads what another one stores: {text}")

    def save(self) -> list[np.ndarray]:
        """A copy of all that exists."""
        return [self._data[begin : begin + len(array)].copy() for begin, array in self._regions.items()]

    def restore(self, saved: list[np.ndarray]) -> None:
        for (begin, array), values in zip(self._regions.items(), saved):
            self._data[begin : begin + len(array)] = values

    def write_back(self) -> None:
        """Copy the bytes into the arrays that were given."""
        for begin, array in self._regions.items():
            array[:] = self._data[begin : begin + len(array)]

    def _clashes(self, place: np.ndarray, thread: np.ndarray) -> np.ndarray:
        """Where another thread has stored, and no barrier orders that and what the threads do now."""
        written = self._written[place]
        same_interval = (written == self._interval) & (self._writer[place] != thread[:, None])
        return same_interval | ((written > 0) & (written < self._program))

    def _place(self, text: str, address: np.ndarray, size: int) -> np.ndarray:
        begin = address.astype(np.int64) - self._first
        outside = (begin < 0) | (begin > len(self._data) - size)
        # Regions are further apart than the longest access.
        first = np.where(outside, 0, begin)
        outside |= ~(self._exists[first] & self._exists[first + size - 1])
        if outside.any():
            raise BoundsError(f"{outside.sum()} threads go outside the {self._name}: {text}")
        if (begin & (size - 1)).any():
            raise BoundsError(f"an address that is not a multiple of {size}: {text}")
        return begin[:, None] + np.arange(size)
