"""Per-row columns kept beside a dataset, such as a teacher's policy and value."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xtra_rl.data.shards import DatasetError, Shard, write_shard
from xtra_rl.files import atomic_write_bytes, file_sha256


def write_column(
    folder: Path,
    name: str,
    arrays: Iterable[np.ndarray],
    *,
    episodes: np.ndarray,
    fingerprint: str,
    provenance: Mapping[str, Any],
) -> None:
    """Write one array per episode, taken one by one, in shards that mirror those of the dataset."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shards: list[dict[str, Any]] = []
    pending: list[np.ndarray] = []
    source = iter(arrays)
    for number, episode in enumerate(episodes):
        array = next(source, None)
        _check_array(name, number, array, int(episode["length"]), len(episodes), pending)
        pending.append(np.asarray(array))
        if number + 1 == len(episodes) or episodes[number + 1]["shard"] != episode["shard"]:
            file = folder / f"{int(episode['shard']):06d}.shard"
            write_shard(file, {name: np.concatenate(pending)}, rows_per_block=256)
            shards.append({"file": file.name, "sha256": file_sha256(file), "bytes": file.stat().st_size})
            pending.clear()
    if next(source, None) is not None:
        raise ValueError(
            f"column {name!r} has more arrays than the {len(episodes)} episodes; pass one for each"
        )
    manifest = {"name": name, "dataset": fingerprint, "provenance": dict(provenance), "shards": shards}
    # The manifest comes last: without it the column does not exist.
    atomic_write_bytes(folder / "column.json", (json.dumps(manifest, indent=2) + "\n").encode())


def _check_array(
    name: str, number: int, array: np.ndarray | None, length: int, total: int, pending: list[np.ndarray]
) -> None:
    if array is None:
        raise ValueError(f"column {name!r} ends after {number} of {total} episodes; pass one array for each")
    if len(array) != length:
        raise ValueError(
            f"column {name!r} has {len(array)} rows for episode {number} of {length} rows; a row for the "
            "final observation is part of it"
        )
    if pending and (array.shape[1:], array.dtype) != (pending[0].shape[1:], pending[0].dtype):
        raise ValueError(
            f"column {name!r} changes from {pending[0].dtype}{list(pending[0].shape[1:])} to "
            f"{array.dtype}{list(array.shape[1:])} at episode {number}"
        )


class Column:
    """A column that belongs to the dataset with ``fingerprint`` (None: to any state of it).

    Raises:
        DatasetError: if it is missing, damaged, of an older state of the dataset or of another provenance.
    """

    def __init__(
        self, folder: Path, name: str, *, fingerprint: str | None, provenance: Mapping[str, Any] | None = None
    ) -> None:
        remedy = f"label the dataset again with dataset.write_column({name!r}, ...)"
        try:
            self._manifest = json.loads((folder / "column.json").read_text())
            stored, made_by = self._manifest["dataset"], self._manifest["provenance"]
        except FileNotFoundError:
            raise DatasetError(
                f"column {name!r} is missing from {str(folder.parent.parent)!r}; {remedy}"
            ) from None
        except (ValueError, KeyError) as error:
            raise DatasetError(
                f"column {name!r} in {str(folder)!r} is damaged ({error!r}); {remedy}"
            ) from error
        if fingerprint is not None and stored != fingerprint:
            raise DatasetError(
                f"column {name!r} in {str(folder)!r} is stale: the dataset has changed since it was "
                f"written; {remedy}"
            )
        for key, value in (provenance or {}).items():
            if made_by.get(key) != value:
                raise DatasetError(
                    f"column {name!r} in {str(folder)!r} is stale: it was made with "
                    f"{key}={made_by.get(key)!r}, {key}={value!r} was asked; {remedy}"
                )
        self.name = name
        self.provenance: dict[str, Any] = made_by
        check_files(folder, self._manifest["shards"])
        self._shards = [Shard(folder / shard["file"]) for shard in self._manifest["shards"]]
        self._folder = folder

    def read(self, episode: np.void, start: int, stop: int) -> np.ndarray:
        """Return rows ``start .. stop - 1`` of an entry of the episode index."""
        offset = int(episode["offset"])
        return self._shards[int(episode["shard"])].read(self.name, offset + start, offset + stop)

    def verify(self) -> None:
        """Compare the hashes of all files."""
        verify_files(self._folder, self._manifest["shards"])


def check_files(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Check that every listed file is there in full, by its size only.

    Raises:
        DatasetError: naming the first missing or truncated file.
    """
    for shard in shards:
        file = folder / shard["file"]
        if not file.is_file():
            raise DatasetError(f"shard {str(file)!r} is missing; restore it or collect the dataset again")
        if file.stat().st_size != shard["bytes"]:
            raise DatasetError(
                f"shard {str(file)!r} is truncated: it has {file.stat().st_size} of {shard['bytes']} bytes; "
                "restore it or collect the dataset again"
            )


def verify_files(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Check size and sha256 of every listed file.

    Raises:
        DatasetError: naming the first file that differs.
    """
    check_files(folder, shards)
    for shard in shards:
        file = folder / shard["file"]
        if file_sha256(file) != shard["sha256"]:
            raise DatasetError(
                f"shard {str(file)!r} is damaged (its sha256 differs from the manifest); restore it or "
                "collect again"
            )
