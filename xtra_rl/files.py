"""Atomic writes, content hashes and locks of files and directories.

A write goes to a temporary sibling that is then moved into place, so a reader never meets half a file and a
crash leaves the version before.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import shutil
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no flock; there two owners of one folder are not detected.
    fcntl = None  # type: ignore[assignment]

_logger = logging.getLogger(__name__)


def atomic_write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file so that it holds either the old or the new content, whatever happens in between."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
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


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """:func:`atomic_write_bytes` for text (UTF-8)."""
    atomic_write_bytes(path, text.encode("utf-8"))


def replace_directory(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Move the finished directory ``source`` to ``target``, replacing one that is already there.

    A directory cannot replace a full one in one system call, so the old one is first moved aside. If the
    second move fails, the old one is moved back.

    Raises:
        OSError: if a move fails.
    """
    source, target = Path(source), Path(target)
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    has_old = target.exists()
    if has_old:
        os.replace(target, old)
    try:
        os.replace(source, target)
    except BaseException:
        if has_old:
            os.rename(old, target)
        raise
    if has_old:
        shutil.rmtree(old, ignore_errors=True)


def write_directory(target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary folder, then move it to ``target``, replacing what is there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    # Left by a process that was killed while it wrote; two never write the same directory.
    for left in target.parent.glob(f".{target.name}.????????.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    temporary.mkdir()
    try:
        write(temporary)
        replace_directory(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def recover_directory(target: str | os.PathLike[str]) -> None:
    """Move the old ``target`` back if a crash fell between the two moves of :func:`replace_directory`."""
    target = Path(target)
    if target.exists() or not target.parent.is_dir():
        return
    old = sorted(target.parent.glob(f".{target.name}.????????.old"), key=lambda path: path.stat().st_mtime)
    if old:
        _logger.warning("%s was being replaced when a process died; its previous version is used", target)
        os.replace(old[-1], target)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as JSON, atomically; tensors, arrays and paths become lists, numbers and strings.

    Raises:
        ValueError: if a number is NaN or infinite, which JSON cannot hold.
    """
    try:
        text = json.dumps(to_plain(value), indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"a value for {Path(path).name} is NaN or infinite, which JSON cannot hold; "
            "pass None where nothing was measured"
        ) from error
    atomic_write_text(path, text + "\n")


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of one table, with the keys of the first as header; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: if it does not exist or is not JSON.
    """
    path = existing(Path(path))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); restore it or make it again") from error


def to_plain(value: Any) -> Any:
    """Nested dicts, lists, strings and numbers in place of mappings, sequences, tensors, arrays and paths."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, os.PathLike):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [to_plain(item) for item in value]
    return value


def config_sha256(config: Mapping[str, Any]) -> str:
    """Hash of a config that does not depend on the order of its keys."""
    return hashlib.sha256(json.dumps(to_plain(config), sort_keys=True).encode("utf-8")).hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Hexadecimal sha256 of a file's content, read in blocks."""
    with open(path, "rb") as file:
        if hasattr(hashlib, "file_digest"):
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
        return digest.hexdigest()


def directory_sha256(path: str | os.PathLike[str]) -> str:
    """Sha256 over the relative names and contents of all files below a directory, in sorted order.

    Hidden files (lock files, temporary ones) do not count.
    """
    root = Path(path)
    digest = hashlib.sha256()
    names = (file.relative_to(root) for file in root.rglob("*") if file.is_file())
    for name in sorted(name.as_posix() for name in names if not any(p.startswith(".") for p in name.parts)):
        digest.update(f"{name}\0{file_sha256(root / name)}\n".encode())
    return digest.hexdigest()


def path_sha256(path: str | os.PathLike[str]) -> str:
    """:func:`directory_sha256` or :func:`file_sha256`, whichever fits.

    Raises:
        ValueError: if the path does not exist.
    """
    path = existing(Path(path))
    return directory_sha256(path) if path.is_dir() else file_sha256(path)


def existing(path: Path) -> Path:
    """The path itself.

    Raises:
        ValueError: if it does not exist.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; check the path or make it first")
    return path


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
