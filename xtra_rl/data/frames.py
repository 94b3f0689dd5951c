"""Frames of a dataset: lossless, compressed in blocks of a few consecutive frames of one episode.

A block holds 8 frames, compressed by LZ4 (high compression). Measured against zstandard, blosc2 and zarr in
``results/data``: neighbouring frames of a game are nearly equal, so LZ4 takes 32 times less than raw RGB frames (5 to
53, by game) and reads them at 25 GB/s, while zstandard would take 29 % less space and 2.7 times as long.
"""

from __future__ import annotations

import copy
import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import torch

from xtra_rl.data import lz4_blocks
from xtra_rl.data.append_file import AppendFile, DatasetError

BLOCK_FIELDS = ("file", "size", "offset", "crc32")
BLOCK_DTYPE = np.dtype(list(zip(BLOCK_FIELDS, ("<u4", "<u4", "<u8", "<u4"))))
FRAMES_PER_BLOCK = 8
CODEC = {"name": "lz4", "frames_per_block": FRAMES_PER_BLOCK}
LEVEL = 9
#: Reading is shared by threads, as many as PyTorch may use, up to this. More would wait for memory and the interpreter.
MAX_THREADS = 4
RUNS_PER_THREAD = 32


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
        self._block_bytes = FRAMES_PER_BLOCK * int(np.prod(self._frame_shape))
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

    def last(self) -> np.ndarray:
        """The newest frame, ``[1, C, H, W]``; there must be one."""
        if self._open:
            return self._open[-1][None]
        raw = lz4.block.decompress(self._blocks[-1], uncompressed_size=self._block_bytes)
        return np.frombuffer(raw, np.uint8).reshape(-1, *self._frame_shape)[-1:]

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
        first_row: ``[E]`` row of each episode's first frame; rows count through the episodes.
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
        self._maps: dict[int, tuple[np.ndarray, int]] = {}
        self._blocks = np.asarray(blocks)
        # A block is checked when it is read for the first time.
        self._checked = bytearray(len(blocks))
        self.first_row, self._first_block = first_row, first_block
        self._num_rows = num_rows
        self.frame_shape = frame_shape
        self._frame_bytes = int(np.prod(frame_shape))

    def __getstate__(self) -> dict[str, Any]:
        """Without what is mapped, whose addresses mean nothing in another process or to a copy."""
        return self.__dict__ | {"_maps": {}, "_checked": bytearray(len(self._blocks))}

    def select(self, episodes: np.ndarray) -> FrameReader:
        """Read some episodes alone, in this order, with rows that count through them; what is mapped is shared."""
        lengths = np.diff(np.append(self.first_row, self._num_rows))[episodes]
        chosen = copy.copy(self)
        chosen._maps, chosen._checked = self._maps, self._checked
        chosen.first_row, chosen._first_block = np.cumsum(lengths) - lengths, self._first_block[episodes]
        chosen._num_rows = int(lengths.sum())
        return chosen

    def read(self, start: int, stop: int) -> np.ndarray:
        """Frames of rows ``start .. stop - 1``, ``[n, C, H, W]`` uint8."""
        return self.gather(np.arange(start, stop))

    def gather(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Frames of any rows ``[n]``, ``[n, C, H, W]`` uint8.

        A block is decompressed once for all neighbours in ``rows`` that lie in it, up to the last one of them, so
        windows cost little more than what they show.

        Args:
            rows: int64 numbers of rows.
            out: contiguous memory for the result.

        Raises:
            DatasetError: naming the file if a block is damaged.
            IndexError: if a row does not exist.
            ValueError: if ``out`` does not have the bytes of the result, in a contiguous array to write to.
        """
        rows = np.asarray(rows, np.int64)
        if rows.size and not (rows.min() >= 0 and rows.max() < self._num_rows):
            raise IndexError(
                f"rows {rows.min()}..{rows.max()} reach beyond the {self._num_rows} of the dataset"
            )
        if out is not None:
            self._check_out(out, len(rows))
        result = (
            np.empty((len(rows), self._frame_bytes), np.uint8) if out is None else out.reshape(len(rows), -1)
        )
        parts = _split(self._runs(rows))
        # Nobody may let go of the memory while threads write to it, also if one of them fails.
        others = [_threads(os.getpid()).submit(self._copy, part, result) for part in parts[1:]]
        try:
            self._copy(parts[0], result)
        finally:
            wait(others)
        for other in others:
            other.result()
        return result.reshape(len(rows), *self.frame_shape)

    def _check_out(self, out: np.ndarray, count: int) -> None:
        """Frames are written by address: nothing but these checks keeps them inside."""
        if out.dtype != np.uint8 or out.size != count * self._frame_bytes or not out.flags.carray:
            raise ValueError(
                f"out has shape {out.shape} and dtype {out.dtype}; pass a contiguous array to write to, of uint8, for"
                f" {count} frames of {self.frame_shape}"
            )

    def episode_of(self, rows: np.ndarray | Sequence[int]) -> np.ndarray:
        """Numbers of the episodes that rows are of, in the shape of ``rows``."""
        return np.searchsorted(self.first_row, rows, side="right") - 1

    def _runs(self, rows: np.ndarray) -> list[tuple[int, ...]]:
        """Runs of consecutive frames of one block, in order.

        Returns:
            number of the block, first frame and stop in it, frames that its neighbouring runs need of it, how many of
            these there are, place of the first frame in ``rows``, and the table's entry of the block.
        """
        if not len(rows):
            return []
        episode = self.episode_of(rows)
        step = rows - self.first_row[episode]
        block = self._first_block[episode] + step // FRAMES_PER_BLOCK
        place = step % FRAMES_PER_BLOCK
        begin = np.append(0, np.flatnonzero((np.diff(block) != 0) | (np.diff(place) != 1)) + 1)
        stop = place[begin] + np.diff(begin, append=len(rows))
        block, place = block[begin], place[begin]
        first_of_block = np.append(0, np.flatnonzero(np.diff(block)) + 1)
        shared = np.diff(first_of_block, append=len(block))
        needed = np.maximum.reduceat(stop, first_of_block).repeat(shared)
        entry = self._blocks[block]
        columns = (
            block,
            place,
            stop,
            needed,
            shared.repeat(shared),
            begin,
            *(entry[name] for name in BLOCK_FIELDS),
        )
        # Plain integers: the loop over them runs some hundred times for a batch.
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def _copy(self, runs: Sequence[tuple[int, ...]], result: np.ndarray) -> None:
        """Put the frames of runs into ``result [n, C*H*W]``, straight where a block's first frames are wanted."""
        scratch = np.empty((FRAMES_PER_BLOCK, self._frame_bytes), np.uint8)
        begin, detour = result.ctypes.data, scratch.ctypes.data
        left = 0  # runs that still take from the scratch memory
        for number, first, stop, needed, shared, to, *entry in runs:
            if first == 0 and shared == 1:
                self._decode(number, begin + to * self._frame_bytes, stop, *entry)
                continue
            if left == 0:
                self._decode(number, detour, needed, *entry)
                left = shared
            left -= 1
            result[to : to + stop - first] = scratch[first:stop]

    def _decode(
        self, number: int, target: int, frames: int, file: int, size: int, offset: int, crc32: int
    ) -> None:
        """Write the first ``frames`` of a block to the address ``target``."""
        data, address = self._map(file)
        if not self._checked[number]:
            if offset + size > len(data) or zlib.crc32(data[offset : offset + size].data) != crc32:
                raise self._damaged(file, "a block's checksum differs")
            self._checked[number] = True
        wanted, content = frames * self._frame_bytes, FRAMES_PER_BLOCK * self._frame_bytes
        if not lz4_blocks.decode_block(address + offset, size, target, wanted, content):
            raise self._damaged(file, "a block holds too few frames")

    def _map(self, file: int) -> tuple[np.ndarray, int]:
        """A frame file and its address."""
        found = self._maps.get(file)
        if found is None:
            try:
                data = np.memmap(self._paths[file], np.uint8, "r")
            except (OSError, ValueError, IndexError) as error:
                raise self._damaged(file, f"it cannot be read: {error}") from error
            found = self._maps[file] = (np.asarray(data), data.ctypes.data)
        return found

    def _damaged(self, file: int, reason: str) -> DatasetError:
        path = self._paths[file] if file < len(self._paths) else f"frame file {file} of {self._paths}"
        return DatasetError(f"{str(path)!r} is damaged ({reason}); restore it or make the dataset again")


def _split(runs: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Even parts for threads, of at least :data:`RUNS_PER_THREAD`; runs of one block stay together."""
    count = max(1, min(torch.get_num_threads(), MAX_THREADS, len(runs) // RUNS_PER_THREAD))
    bounds = [0]
    for i in range(1, count):
        bound = max(len(runs) * i // count, bounds[-1])
        while bound < len(runs) and runs[bound][0] == runs[bound - 1][0]:
            bound += 1
        bounds.append(bound)
    return [runs[start:stop] for start, stop in zip(bounds, [*bounds[1:], len(runs)], strict=True)]


@cache
def _threads(process: int) -> ThreadPoolExecutor:
    """Threads of this process: those of the process that it was forked from do not exist here."""
    return ThreadPoolExecutor(MAX_THREADS - 1, "read-frames")
