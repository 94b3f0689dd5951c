"""Drawing rows in proportion to a number that each of them has, at a cost that hardly grows with the rows."""

from __future__ import annotations

import numpy as np

BLOCK = 128


class MassTable:
    """A mass of at least 0 for each row, with the sums of blocks of rows, so that draws look at few of them.

    A draw adds up the blocks' sums, finds its block and adds up that block alone. For a million rows that is 8,000
    numbers instead of a million. Sums are functions of the masses as they are, not of how they came to be: a table
    that is filled with the masses of another draws the same rows.

    Args:
        size: number of rows; all masses are 0 at first.

    Attributes:
        num_positive: rows with a mass above 0.

    Example:
        >>> table = MassTable(1000)
        >>> table.put(np.array([3, 700]), 0.5)
        >>> table.find(np.array([0.0, 0.4, 0.6])), table.total
        (array([  3,   3, 700]), 1.0)
    """

    def __init__(self, size: int) -> None:
        blocks = -(-size // BLOCK)
        self._by_block = np.zeros((blocks, BLOCK))
        self._sums = np.zeros(blocks)
        self._positive = np.zeros(blocks, np.int64)
        self._size = size
        self.num_positive = 0

    @property
    def mass(self) -> np.ndarray:
        """``[size]`` float64, a view; write through :meth:`put`."""
        return self._by_block.reshape(-1)[: self._size]

    @property
    def total(self) -> float:
        """Sum of all masses."""
        return float(self._sums.cumsum()[-1])

    def put(self, rows: np.ndarray, mass: np.ndarray | float) -> None:
        """Set the masses of ``rows [n]``.

        Raises:
            IndexError: if there is no such row.
        """
        if len(rows) and not (rows.min() >= 0 and rows.max() < self._size):
            raise IndexError(f"rows {rows.min()}..{rows.max()} do not lie in the {self._size} of the table")
        self.mass[rows] = mass
        blocks = np.unique(rows // BLOCK)
        contents = self._by_block[blocks]
        self._sums[blocks] = contents.sum(1)
        before = self._positive[blocks].sum()
        self._positive[blocks] = np.count_nonzero(contents, 1)
        self.num_positive += int(self._positive[blocks].sum() - before)

    def find(self, points: np.ndarray) -> np.ndarray:
        """Rows at ``points [n]`` of the masses laid end to end, each point in ``[0, total)``; never one of mass 0."""
        ends = self._sums.cumsum()
        # Rounding may lift a point to the total itself, which lies behind the last row.
        points = np.minimum(points, np.nextafter(ends[-1], 0))
        block = ends.searchsorted(points, "right")
        inside = self._by_block[block].cumsum(1)
        points = np.clip(points - (ends[block] - self._sums[block]), 0, np.nextafter(inside[:, -1], 0))
        return block * BLOCK + (inside <= points[:, None]).sum(1)
