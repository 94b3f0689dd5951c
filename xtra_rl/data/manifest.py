"""The manifest and the episode index of a trajectory dataset."""

from __future__ import annotations

import hashlib
import io
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from xtra_rl.data.shards import DatasetError
from xtra_rl.files import atomic_write_bytes

FORMAT = "xtra_rl.trajectories"
FORMAT_VERSION = 1
EPISODE_DTYPE = np.dtype(
    [("shard", "<i8"), ("offset", "<i8"), ("length", "<i8"), ("raw_return", "<f8"), ("checkpoint", "<i8")]
)
_PACKAGES = ("xtra_rl", "torch", "torchrl", "tensordict", "numpy", "ale-py", "gymnasium", "zstandard")


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
    try:
        manifest = json.loads(file.read_text())
        found = (manifest["format"], manifest["version"])
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{str(file)!r} is damaged ({error!r}); restore it or collect the dataset again"
        ) from error
    if found != (FORMAT, FORMAT_VERSION):
        raise DatasetError(
            f"{str(file)!r} has format {found[0]!r} version {found[1]!r}, this release reads {FORMAT!r} "
            f"version {FORMAT_VERSION}; use the release that wrote it or collect the dataset again"
        )
    return manifest


def write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Write ``path/manifest.json``; what it does not list does not exist, so this commits a change."""
    atomic_write_bytes(path / "manifest.json", (json.dumps(manifest, indent=2) + "\n").encode())


def write_index(path: Path, episodes: np.ndarray) -> str:
    """Write ``path/index.npy`` and return the hash of its content."""
    data = io.BytesIO()
    np.save(data, episodes, allow_pickle=False)
    atomic_write_bytes(path / "index.npy", data.getvalue())
    return hash_index(episodes)


def read_index(path: Path, manifest: dict[str, Any]) -> np.ndarray:
    """Open ``path/index.npy`` memory-mapped and return the episodes that the manifest commits.

    Raises:
        DatasetError: if it is missing or not the one of the manifest.
    """
    file = path / "index.npy"
    count = manifest["num_episodes"]
    try:
        episodes = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(
            f"{str(file)!r} is missing or damaged ({error}); restore it or collect again"
        ) from error
    # A writer that was killed between index and manifest leaves a longer index: its beginning is still right.
    if episodes.dtype != EPISODE_DTYPE or hash_index(episodes[:count]) != manifest["index_sha256"]:
        raise DatasetError(
            f"{str(file)!r} does not match its manifest; restore it or collect the dataset again"
        )
    return episodes[:count]


def hash_index(episodes: np.ndarray) -> str:
    """Return the sha256 of the episode entries."""
    return hashlib.sha256(np.ascontiguousarray(episodes).tobytes()).hexdigest()


def fingerprint(manifest: dict[str, Any]) -> str:
    """Return a hash of everything the dataset contains; it changes when episodes are added."""
    parts = [manifest["index_sha256"], *(shard["sha256"] for shard in manifest["shards"])]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
