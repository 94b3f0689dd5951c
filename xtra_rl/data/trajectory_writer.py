"""Write datasets of whole episodes, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensordict import TensorDictBase
from torch import Tensor

from xtra_rl.data.manifest import (
    EPISODE_DTYPE,
    FORMAT,
    FORMAT_VERSION,
    package_versions,
    read_index,
    read_manifest,
    write_index,
    write_manifest,
)
from xtra_rl.data.shards import DatasetError, write_shard
from xtra_rl.files import FolderLock, file_sha256

ROW_DTYPES: dict[str, np.dtype] = {
    "pixels": np.dtype("uint8"),
    "action": np.dtype("int64"),
    "reward": np.dtype("float32"),
    "terminated": np.dtype("bool"),
    "truncated": np.dtype("bool"),
}


class TrajectoryWriter:
    """Create a dataset or continue one.

    Episodes become part of the dataset shard by shard. A killed writer loses at most the episodes of the
    unfinished shard; the next one continues behind the last finished episode, which :attr:`num_episodes`
    tells. Leaving the ``with`` block, also by an exception, saves all episodes added.

    Args:
        path: folder of the dataset.
        task: name of the task.
        frame_shape: ``(C, H, W)`` of the frames.
        frame_skip: emulator frames of one transition.
        sticky: probability that the emulator repeats the previous action.
        grayscale: whether frames are grey.
        env_settings: further settings of the environment, JSON values.
        provenance: what makes the data (agent, configuration, ...), JSON values; kept as a list over all
            writers.
        shard_rows: rows after which a shard is written; a longer episode makes a shard of its own.
        level: zstd level.

    Raises:
        ValueError: if another writer is at work, or the dataset there is of another task or settings.
    """

    def __init__(
        self,
        path: str | Path,
        task: str,
        *,
        frame_shape: Sequence[int],
        frame_skip: int = 4,
        sticky: float = 0.0,
        grayscale: bool = False,
        env_settings: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        shard_rows: int = 8192,
        level: int = 3,
    ) -> None:
        if len(frame_shape) != 3 or min(frame_shape) < 1:
            raise ValueError(f"frame_shape={tuple(frame_shape)} must be (C, H, W)")
        if shard_rows < 1:
            raise ValueError(f"shard_rows={shard_rows} must be at least 1")
        self.path = Path(path)
        self._shard_rows = shard_rows
        self._level = level
        self._pending: list[dict[str, np.ndarray]] = []
        self._pending_entries: list[tuple[int, int, int, float, int]] = []
        self._lock: FolderLock | None = FolderLock(self.path, owner="trajectory writer")
        env = {
            "frame_shape": [int(size) for size in frame_shape],
            "frame_skip": frame_skip,
            "sticky": sticky,
            "grayscale": grayscale,
            **(env_settings or {}),
        }
        try:
            self._open(task, env)
        except BaseException:
            self.close()
            raise
        if provenance and dict(provenance) not in self._manifest["provenance"]:
            self._manifest["provenance"].append(dict(provenance))
            write_manifest(self.path, self._manifest)

    def _open(self, task: str, env: dict[str, Any]) -> None:
        (self.path / "shards").mkdir(exist_ok=True)
        if (self.path / "manifest.json").exists():
            self._manifest = read_manifest(self.path)
            self._episodes = np.array(read_index(self.path, self._manifest))
            _check_same(
                self.path, {"task": self._manifest["task"], **self._manifest["env"]}, {"task": task, **env}
            )
            return
        self._episodes = np.empty(0, EPISODE_DTYPE)
        self._manifest = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "task": task,
            "env": env,
            "rows": {},
            "num_episodes": 0,
            "num_transitions": 0,
            "index_sha256": write_index(self.path, self._episodes),
            "shards": [],
            "provenance": [],
            "versions": package_versions(),
        }
        write_manifest(self.path, self._manifest)

    @property
    def num_episodes(self) -> int:
        """Episodes in the dataset, those of the unfinished shard included."""
        return len(self._episodes) + len(self._pending)

    @property
    def num_transitions(self) -> int:
        """Transitions in the dataset, those of the unfinished shard included."""
        pending = sum(len(episode["action"]) - 1 for episode in self._pending)
        return int(self._episodes["length"].sum()) - len(self._episodes) + pending

    def count(self, checkpoint: int) -> int:
        """Return how many episodes of a checkpoint there are; the rest is left to collect."""
        pending = sum(entry[-1] == checkpoint for entry in self._pending_entries)
        return int((self._episodes["checkpoint"] == checkpoint).sum()) + pending

    def add_episode(self, rows: Mapping[str, Any] | TensorDictBase, *, checkpoint: int = 0) -> int:
        """Add one whole episode.

        Args:
            rows: ``[T + 1]`` arrays or tensors: ``pixels [C, H, W]`` uint8, ``action``, ``reward`` (raw),
                ``terminated``, ``truncated``, and extra columns, which the first episode fixes. The last row
                is the final observation; its action and reward are ignored.
            checkpoint: number of the agent's checkpoint that played.

        Returns:
            The number of the episode in the dataset.

        Raises:
            ValueError: if keys, shapes or types do not fit.
        """
        if self._lock is None:
            raise ValueError("this TrajectoryWriter is closed; open a new one to add episodes")
        episode = self._conform(rows)
        raw_return = float(episode["reward"].sum(dtype=np.float64))
        offset = sum(len(other["action"]) for other in self._pending)
        entry = (len(self._manifest["shards"]), offset, len(episode["action"]), raw_return, checkpoint)
        self._pending.append(episode)
        self._pending_entries.append(entry)
        if offset + len(episode["action"]) >= self._shard_rows:
            self.flush()
        return self.num_episodes - 1

    def _conform(self, rows: Mapping[str, Any] | TensorDictBase) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {
            name: value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            for name, value in rows.items()
        }
        missing = sorted(set(ROW_DTYPES) - set(arrays))
        if missing:
            raise ValueError(f"rows lack {missing}; pass {sorted(ROW_DTYPES)} for every row")
        _check_episode(arrays, tuple(self._manifest["env"]["frame_shape"]))
        # Copies, for the caller may go on using the memory.
        arrays = {
            name: np.array(array, dtype=ROW_DTYPES.get(name, array.dtype)) for name, array in arrays.items()
        }
        for name in ("action", "reward"):
            arrays[name][-1] = 0
        layout = {name: [array.dtype.str, list(array.shape[1:])] for name, array in sorted(arrays.items())}
        if self._manifest["rows"] not in ({}, layout):
            raise ValueError(f"rows are {layout}, earlier episodes {self._manifest['rows']}; keep one layout")
        self._manifest["rows"] = layout
        return arrays

    def flush(self) -> None:
        """Write the episodes added so far as a smaller shard; does nothing when there are none."""
        if not self._pending:
            return
        file = self.path / "shards" / f"{len(self._manifest['shards']):06d}.shard"
        names = self._pending[0].keys()
        arrays = {name: np.concatenate([episode[name] for episode in self._pending]) for name in names}
        write_shard(file, arrays, level=self._level)
        shard = {
            "file": file.name,
            "sha256": file_sha256(file),
            "bytes": file.stat().st_size,
            "raw_bytes": sum(array.nbytes for array in arrays.values()),
            "rows": len(arrays["action"]),
            "episodes": len(self._pending),
        }
        self._episodes = np.concatenate([self._episodes, np.array(self._pending_entries, EPISODE_DTYPE)])
        self._pending, self._pending_entries = [], []
        # Shard, index, manifest: a kill in between leaves files that the manifest does not know, to be
        # overwritten.
        self._manifest["shards"].append(shard)
        self._manifest["index_sha256"] = write_index(self.path, self._episodes)
        self._manifest["num_episodes"] = len(self._episodes)
        self._manifest["num_transitions"] = self.num_transitions
        write_manifest(self.path, self._manifest)

    def close(self) -> None:
        """Write what is pending and let go of the folder; a second call does nothing."""
        if self._lock is None:
            return
        try:
            self.flush()
        finally:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_same(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    for key in sorted({*found, *asked}):
        if found.get(key) != asked.get(key):
            raise DatasetError(
                f"dataset {str(path)!r} was written with {key}={found.get(key)!r}, {key}={asked.get(key)!r} "
                "was asked; write to another folder or use the same settings"
            )


def _check_episode(arrays: dict[str, np.ndarray], frame_shape: tuple[int, ...]) -> None:
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(lengths.values())) != 1 or len(lengths) != len(arrays) or lengths["action"] < 2:
        raise ValueError(f"rows have lengths {lengths}; every key needs T + 1 rows with T at least 1")
    pixels = arrays["pixels"]
    if pixels.shape[1:] != frame_shape or pixels.dtype != np.uint8:
        raise ValueError(
            f"pixels are {pixels.dtype} of shape {pixels.shape[1:]}, the dataset holds uint8 "
            f"{frame_shape}; write them to a dataset of their own"
        )
    ended = arrays["terminated"].astype(bool) | arrays["truncated"].astype(bool)
    if ended[:-2].any() or ended[-1]:
        raise ValueError(
            f"rows end at row {int(ended.nonzero()[0][0])} of {len(ended)}; only the action before the final "
            "observation may end an episode"
        )
