"""Frames of a dataset: lossless, compressed in blocks of a few consecutive frames of one episode.

A block holds 8 frames, compressed by LZ4 (high compression). Measured against zstandard, blosc2 and zarr in
``results/data``: neighbouring frames of a game are nearly equal, so LZ4 takes 23 to 46 times less than raw RGB
frames and reads them at memory speed, while zstandard would take a third less space at a quarter of the speed.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Sequence
from pathlib import Path

import lz4.block
import numpy as np

from xtra_rl.data.append_file import AppendFile, DatasetError

BLOCK_DTYPE = np.dtype([("file", "<u4"), ("size", "<u4"), ("offset", "<u8"), ("crc32", "<u4")])
FRAMES_PER_BLOCK = 8
CODEC = {"name": "lz4", "frames_per_block": FRAMES_PER_BLOCK}
LEVEL = 9


def frame_file(number: int) -> str:
    """Name of the frame file (shard) with that number, relative to the dataset."""
    return f"frames/{number:06d}.lz4"


class CompressedFrames:
    """Consecutive frames ``[T, C, H, W]`` of one episode in compressed blocks, added in pieces of any size.

    An episode that is still being played waits in memory like this, at a few per cent of its size.

    Args:
        frame_shape: ``(C, H, W)``.
        level: of LZ4's high compression.

    Example:
        >>> frames = CompressedFrames((1, 2, 2))
        >>> for _ in range(20):
        ...     frames.add(np.zeros((1, 1, 2, 2), np.uint8))
        >>> frames.shape, len(frames.blocks())
        ((20, 1, 2, 2), 3)
    """

    dtype = np.dtype("uint8")

    def __init__(self, frame_shape: Sequence[int], *, level: int = LEVEL) -> None:
        self._frame_shape = tuple(frame_shape)
        self._level = level
        self._blocks: list[bytes] = []
        self._open: list[np.ndarray] = []
        self._length = 0

    def add(self, frames: np.ndarray) -> None:
        """Add frames ``[n, C, H, W]`` uint8; they are copied."""
        self._length += len(frames)
        while len(frames):
            room = FRAMES_PER_BLOCK - len(self._open)
            self._open += list(np.array(frames[:room], order="C"))
            frames = frames[room:]
            if len(self._open) == FRAMES_PER_BLOCK:
                self._blocks.append(self._compress())
                self._open = []

    def _compress(self) -> bytes:
        raw = np.stack(self._open).tobytes()
        return lz4.block.compress(raw, mode="high_compression", compression=self._level, store_size=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(T, C, H, W)``."""
        return (self._length, *self._frame_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the frames without compression."""
        return self._length * int(np.prod(self._frame_shape))

    def __len__(self) -> int:
        return self._length

    def blocks(self) -> list[bytes]:
        """All blocks; each but the last holds :data:`FRAMES_PER_BLOCK` frames."""
        return [*self._blocks, *([self._compress()] if self._open else [])]


def append_frames(frames: CompressedFrames, file: AppendFile, number: int) -> np.ndarray:
    """Write the frames of one episode to a frame file; returns the table of their blocks, :data:`BLOCK_DTYPE`."""
    blocks = [(number, len(data), file.append(data), zlib.crc32(data)) for data in frames.blocks()]
    return np.array(blocks, BLOCK_DTYPE)


class FrameReader:
    """Reads frames of a dataset by the number of their row.

    Only compressed files are mapped into memory, which the operating system takes back when it needs to; nothing is
    kept decompressed.

    Args:
        path: folder of the dataset.
        files: names of the frame files, by number.
        blocks: table of all blocks, in order of the episodes.
        first_row: ``[E]`` row of each episode's first frame; rows count through the dataset.
        first_block: ``[E]`` block of each episode's first frame.
        num_rows: rows in all.
        frame_shape: ``(C, H, W)``.
    """

    def __init__(
        self,
        path: Path,
        files: Sequence[str],
        blocks: np.ndarray,
        *,
        first_row: np.ndarray,
        first_block: np.ndarray,
        num_rows: int,
        frame_shape: tuple[int, int, int],
    ) -> None:
        self._paths = [path / name for name in files]
        self._maps: dict[int, mmap.mmap] = {}
        self._blocks = blocks
        self._first_row, self._first_block = first_row, first_block
        self._num_rows = num_rows
        self.frame_shape = frame_shape
        self._frame_bytes = int(np.prod(frame_shape))

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames of rows ``start .. stop - 1``, ``[n, C, H, W]`` uint8."""
        return self.gather(np.arange(start, stop))

    def gather(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Frames of any rows ``[n]``, ``[n, C, H, W]`` uint8.

        A block is decompressed once for all neighbours in ``rows`` that lie in it, so windows cost what they show.

        Args:
            rows: int64 numbers of rows.
            out: contiguous memory for the result.

        Raises:
            DatasetError: naming the file if a block is damaged.
            IndexError: if a row does not exist.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < self._num_rows):
            raise IndexError(
                f"rows {rows.min()}..{rows.max()} reach beyond the {self._num_rows} of the dataset"
            )
        result = (
            np.empty((len(rows), self._frame_bytes), np.uint8) if out is None else out.reshape(len(rows), -1)
        )
        episode = np.searchsorted(self._first_row, rows, side="right") - 1
        step = rows - self._first_row[episode]
        block = self._first_block[episode] + step // FRAMES_PER_BLOCK
        place = step % FRAMES_PER_BLOCK
        # Runs of consecutive frames of one block are copied at once.
        ends = np.flatnonzero((np.diff(block) != 0) | (np.diff(place) != 1)) + 1
        bounds = np.concatenate([[0], ends, [len(rows)]]) if len(rows) else np.zeros(1, np.int64)
        firsts = bounds[:-1]
        number, content = -1, np.empty((0, self._frame_bytes), np.uint8)
        for begin, end, wanted, inside in zip(
            firsts.tolist(), bounds[1:].tolist(), block[firsts].tolist(), place[firsts].tolist(), strict=True
        ):
            if wanted != number:
                number, content = wanted, self._block(wanted)
            try:
                result[begin:end] = content[inside : inside + end - begin]
            except ValueError as error:
                raise self._damaged(wanted, "it holds too few frames") from error
        return result.reshape(len(rows), *self.frame_shape)

    def _block(self, number: int) -> np.ndarray:
        file, size, offset, crc32 = self._blocks[number].item()
        data = memoryview(self._map(file))[offset : offset + size]
        if zlib.crc32(data) != crc32:
            raise self._damaged(number, "a block's checksum differs")
        try:
            raw = lz4.block.decompress(data, uncompressed_size=FRAMES_PER_BLOCK * self._frame_bytes)
        except (lz4.block.LZ4BlockError, MemoryError) as error:
            raise self._damaged(number, str(error)) from error
        if len(raw) % self._frame_bytes:
            raise self._damaged(number, f"a block holds {len(raw)} bytes")
        return np.frombuffer(raw, np.uint8).reshape(-1, self._frame_bytes)

    def _map(self, file: int) -> mmap.mmap:
        if file not in self._maps:
            try:
                with open(self._paths[file], "rb") as handle:
                    self._maps[file] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError, IndexError) as error:
                raise DatasetError(
                    f"frame file {file} of {str(self._paths[0].parent)!r} cannot be read ({error}); restore it or make"
                    " the dataset again"
                ) from error
        return self._maps[file]

    def _damaged(self, block: int, reason: str) -> DatasetError:
        path = self._paths[int(self._blocks[block]["file"])]
        return DatasetError(f"{str(path)!r} is damaged ({reason}); restore it or make the dataset again")
