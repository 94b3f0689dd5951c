"""Small file helpers: atomic writes, hashes and a lock on a folder."""

from __future__ import annotations

import hashlib
import os
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no flock; there two owners of one folder are not detected.
    fcntl = None  # type: ignore[assignment]


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, read in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either its old or its new content, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # A rename is durable only after its folder has reached the disk.
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class FolderLock:
    """Own a folder until :meth:`release`, garbage collection or the end of the process.

    Raises:
        ValueError: if another live object, here or in another process, owns the folder.
    """

    def __init__(self, folder: Path, *, owner: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(handle)
                raise ValueError(
                    f"{str(folder)!r} is already in use by another {owner}; close that one or pass another "
                    "folder"
                ) from None
        self._finalizer = weakref.finalize(self, os.close, handle)

    def release(self) -> None:
        """Give the folder back; a second call does nothing."""
        self._finalizer()
