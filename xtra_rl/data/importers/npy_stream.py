"""Gzipped ``npy`` arrays that are larger than memory."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from xtra_rl.data.append_file import DatasetError

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
# What gzip and numpy raise for files that end too early or hold something else.
_BAD = (OSError, EOFError, ValueError, KeyError, zlib.error)


class NpyStream:
    """A gzipped ``npy`` file, read from the front in pieces; never more than one piece is in memory.

    Args:
        path: the file.

    Raises:
        DatasetError: if the file is missing, or no gzipped array; :meth:`read` also if it ends too early,
            :meth:`finish` if a byte is wrong.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = gzip.open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise self._damaged(error) from error
        try:
            version = np.lib.format.read_magic(self._file)
            self.shape, fortran, self.dtype = _HEADERS[version](self._file)
            if self.dtype.hasobject or (fortran and len(self.shape) > 1):
                raise ValueError("expected plain numbers, row by row")
        except _BAD as error:
            self._file.close()
            raise self._damaged(error) from error
        self._row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])

    def read(self, count: int) -> np.ndarray:
        """The next ``count`` rows, ``[count, ...]``; they cannot be written to.

        Raises:
            DatasetError: if the file is damaged or ends too early.
        """
        try:
            data = self._file.read(count * self._row_bytes)
        except _BAD as error:
            raise self._damaged(error) from error
        if len(data) != count * self._row_bytes:
            raise self._damaged(EOFError(f"it ends {count * self._row_bytes - len(data)} bytes too early"))
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def skip(self, count: int, *, piece: int = 512) -> None:
        """Pass over ``count`` rows."""
        for start in range(0, count, piece):
            self.read(min(piece, count - start))

    def finish(self, *, piece: int = 1 << 20) -> None:
        """Read what is left, behind which gzip's checksum of everything stands.

        Raises:
            DatasetError: if the checksum is wrong.
        """
        try:
            while self._file.read(piece):
                pass
        except _BAD as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> NpyStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _damaged(self, error: BaseException) -> DatasetError:
        return DatasetError(f"{str(self._path)!r} is damaged ({error}); download it again")
