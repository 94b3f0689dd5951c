"""A file of arrays in independently compressed blocks of rows.

Layout: ``MAGIC``, header length (uint64) and header crc32 (uint32), both little-endian, a JSON header, then
zstd frames. The header gives dtype, shape and the ``[offset, size]`` of each block, so that a few rows are
read without the rest. Every zstd frame carries its own checksum: damage is found by whoever reads it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from xtra_rl.files import atomic_write_bytes

_MAGIC = b"XTRASHD1"
_PREFIX = struct.Struct("<8sQI")


class DatasetError(ValueError):
    """A dataset that is missing, damaged, stale or not the one asked for; the message says what to do."""


def write_shard(
    path: Path, arrays: Mapping[str, np.ndarray], *, rows_per_block: int = 32, level: int = 3
) -> None:
    """Write arrays that share their first axis, atomically and without loss."""
    compressor = zstandard.ZstdCompressor(level=level, write_checksum=True)
    header: dict[str, Any] = {}
    payload: list[bytes] = []
    offset = 0
    for name, array in arrays.items():
        blocks = []
        for start in range(0, len(array), rows_per_block):
            block = compressor.compress(np.ascontiguousarray(array[start : start + rows_per_block]).tobytes())
            blocks.append([offset, len(block)])
            payload.append(block)
            offset += len(block)
        header[name] = {
            "dtype": array.dtype.newbyteorder("<").str,
            "shape": list(array.shape),
            "rows_per_block": rows_per_block,
            "blocks": blocks,
        }
    text = json.dumps(header).encode()
    atomic_write_bytes(path, b"".join([_PREFIX.pack(_MAGIC, len(text), zlib.crc32(text)), text, *payload]))


class Shard:
    """Read rows of a shard file; its header is read on first use.

    Raises:
        DatasetError: naming the file, wherever its content is not what was written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _header(self) -> tuple[int, dict[str, Any]]:
        try:
            with open(self.path, "rb") as file:
                magic, length, checksum = _PREFIX.unpack(file.read(_PREFIX.size))
                text = file.read(length) if magic == _MAGIC and length < 1 << 31 else b""
        except (OSError, struct.error) as error:
            raise self._damaged(str(error)) from error
        if not text or zlib.crc32(text) != checksum:
            raise self._damaged("its header is not a shard's")
        return _PREFIX.size + length, json.loads(text)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return tuple(self._header[1])

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return rows ``start .. stop - 1`` of an array, decompressing only the blocks that hold them."""
        base, header = self._header
        entry = header[name]
        shape, size = entry["shape"], entry["rows_per_block"]
        if not 0 <= start <= stop <= shape[0]:
            raise self._damaged(f"rows {start}..{stop} of {name!r} are beyond its {shape[0]} rows")
        first = start // size
        blocks = entry["blocks"][first : -(-stop // size)] if stop > start else []
        dtype = np.dtype(entry["dtype"])
        expected = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        pieces = []
        for number, raw in enumerate(self._read_blocks(base, blocks), start=first):
            rows = min(size, shape[0] - number * size)
            pieces.append(self._decompress(raw, rows * expected))
        rows = np.frombuffer(bytearray(b"".join(pieces)), dtype).reshape(-1, *shape[1:])
        return rows[start - first * size : stop - first * size]

    def _read_blocks(self, base: int, blocks: list[list[int]]) -> list[bytes]:
        if not blocks:
            return []
        # The blocks of one array are neighbours in the file, so one read fetches them all.
        begin, end = blocks[0][0], sum(blocks[-1])
        with open(self.path, "rb") as file:
            file.seek(base + begin)
            data = file.read(end - begin)
        return [data[offset - begin : offset - begin + length] for offset, length in blocks]

    def _decompress(self, block: bytes, expected: int) -> bytes:
        try:
            raw = zstandard.ZstdDecompressor().decompress(block, max_output_size=expected)
        except zstandard.ZstdError as error:
            raise self._damaged(str(error)) from error
        if len(raw) != expected:
            raise self._damaged(f"a block holds {len(raw)} bytes instead of {expected}")
        return raw

    def _damaged(self, reason: str) -> DatasetError:
        return DatasetError(
            f"shard {str(self.path)!r} is damaged ({reason}); restore it or collect the dataset again"
        )
