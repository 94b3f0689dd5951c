"""The manifest of a trajectory dataset, and the tables that it commits."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from xtra_rl.data.append_file import DatasetError, FileEntry, check_size
from xtra_rl.data.sealed_json import check_seal, write_sealed

FORMAT = "xtra_rl.trajectories"
FORMAT_VERSION = 3
EPISODE_DTYPE = np.dtype(
    [
        ("first_row", "<i8"),
        ("first_block", "<i8"),
        ("length", "<i8"),
        ("raw_return", "<f8"),
        ("checkpoint", "<i8"),
        ("number", "<i8"),
    ]
)
EPISODES, BLOCKS = "episodes.bin", "blocks.bin"


def row_file(name: str) -> str:
    """Name of the file with one value of ``name`` for each row, relative to the dataset."""
    return f"rows/{name}.bin"


_PACKAGES = ("xtra_rl", "torch", "torchrl", "tensordict", "numpy", "ale-py", "gymnasium", "lz4")


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that data depends on, as far as installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check ``path/manifest.json``.

    Raises:
        DatasetError: if it is missing, unreadable or of another format.
    """
    file = path / "manifest.json"
    if not file.is_file():
        raise DatasetError(
            f"no dataset in {str(path)!r} (manifest.json is missing); collect one or pass its folder"
        )
    damaged = f"{str(file)!r} is damaged ({{}}); restore it or collect the dataset again"
    try:
        manifest = json.loads(file.read_text())
        found = (manifest["format"], manifest["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(damaged.format(repr(error))) from error
    if found != (FORMAT, FORMAT_VERSION):
        raise DatasetError(
            f"{str(file)!r} has format {found[0]!r} version {found[1]!r}, this release reads {FORMAT!r} "
            f"version {FORMAT_VERSION}; use the release that wrote it or collect the dataset again"
        )
    try:
        return check_seal(manifest)
    except ValueError as error:
        raise DatasetError(damaged.format(error)) from error


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write ``path/manifest.json``; what it does not list does not exist, so this commits a change."""
    write_sealed(path / "manifest.json", manifest)


def map_table(
    path: Path, manifest: dict[str, Any], name: str, dtype: np.dtype, shape: tuple[int, ...] = ()
) -> np.ndarray:
    """Map the committed entries of a table of the dataset into memory, ``[n, *shape]``.

    Raises:
        DatasetError: if the file is missing or does not hold what the manifest says.
    """
    entry = manifest["files"].get(name)
    if entry is None:
        raise DatasetError(f"{str(path / name)!r} is not part of the dataset; make the dataset again")
    return map_array(path / name, entry, dtype, shape)


def map_array(file: Path, entry: FileEntry, dtype: np.dtype, shape: tuple[int, ...] = ()) -> np.ndarray:
    """Map the committed bytes of a file of equal records into memory, ``[n, *shape]``.

    Writing to the result changes neither the file nor other mappings (torch wants memory that it could write to).

    Raises:
        DatasetError: if the file is shorter than it was, or its bytes are no whole number of records.
    """
    check_size(file, entry)
    width = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    count, rest = divmod(entry["bytes"], width)
    if rest:
        raise DatasetError(
            f"{str(file)!r} is damaged: its {entry['bytes']} bytes are not whole records of {width}"
        )
    if count == 0:
        return np.empty((0, *shape), dtype)
    return np.memmap(file, dtype, "c", shape=(count, *shape))


def fingerprint(manifest: dict[str, Any]) -> str:
    """Return a hash of everything the dataset contains; it changes when episodes are added."""
    parts = [f"{name} {entry['sha256']}" for name, entry in sorted(manifest["files"].items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
