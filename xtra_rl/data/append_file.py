"""Files that only grow, whose committed beginning is named by size and hash in a manifest."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, TypedDict

_PIECE = 1 << 20


class DatasetError(ValueError):
    """A dataset that is missing, damaged, stale or not the one asked for; the message says what to do."""


class FileEntry(TypedDict):
    """What a manifest says of a file."""

    bytes: int
    sha256: str


class AppendFile:
    """Append to a file whose first ``entry["bytes"]`` bytes are committed.

    What stands behind them was written by a process that died before it could commit, and is cut off.

    Args:
        path: the file; created if ``entry`` is None.
        entry: the committed size and hash.

    Raises:
        DatasetError: if the committed bytes are not those that were written.
    """

    def __init__(self, path: Path, entry: FileEntry | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._hash = hashlib.sha256()
        self.size = 0
        if entry is not None:
            self._hash, self.size = _hash_prefix(path, entry["bytes"]), entry["bytes"]
            _check_hash(path, self._hash.hexdigest(), entry)
        self._file = open(path, "r+b" if entry is not None else "w+b")  # noqa: SIM115
        self._file.truncate(self.size)
        self._file.seek(self.size)

    def append(self, data: bytes | memoryview) -> int:
        """Add bytes at the end; returns where they begin."""
        start = self.size
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        return start

    def sync(self) -> FileEntry:
        """Bring everything to the disk; returns what a manifest has to say to commit it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return {"bytes": self.size, "sha256": self._hash.hexdigest()}

    def close(self) -> None:
        """Let go of the file; what is not committed by then is lost."""
        self._file.close()


def check_size(path: Path, entry: FileEntry) -> None:
    """Check that the committed bytes are there; more may follow.

    Raises:
        DatasetError: naming the file if it is missing or truncated.
    """
    if not path.is_file():
        raise DatasetError(f"{str(path)!r} is missing; restore it or make the dataset again")
    size = path.stat().st_size
    if size < entry["bytes"]:
        raise DatasetError(
            f"{str(path)!r} is truncated: it has {size} of {entry['bytes']} bytes; restore it or make the dataset again"
        )


def verify_file(path: Path, entry: FileEntry) -> None:
    """Compare size and hash of the committed bytes.

    Raises:
        DatasetError: naming the file if they differ.
    """
    check_size(path, entry)
    _check_hash(path, _hash_prefix(path, entry["bytes"]).hexdigest(), entry)


def _check_hash(path: Path, found: str, entry: FileEntry) -> None:
    if found != entry["sha256"]:
        raise DatasetError(
            f"{str(path)!r} is damaged (its sha256 differs from the manifest's); restore it or make the dataset again"
        )


def _hash_prefix(path: Path, size: int) -> Any:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            left = size
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    break
                digest.update(piece)
                left -= len(piece)
    except OSError as error:
        raise DatasetError(
            f"{str(path)!r} cannot be read ({error}); restore it or make the dataset again"
        ) from error
    return digest
