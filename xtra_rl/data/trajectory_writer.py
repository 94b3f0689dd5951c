"""Write datasets of whole episodes, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensordict import TensorDictBase
from torch import Tensor

from xtra_rl.data.append_file import AppendFile, DatasetError, FileEntry
from xtra_rl.data.frames import (
    BLOCK_DTYPE,
    CODEC,
    FRAMES_PER_BLOCK,
    LEVEL,
    CompressedFrames,
    append_frames,
    frame_file,
)
from xtra_rl.data.manifest import (
    BLOCKS,
    EPISODE_DTYPE,
    EPISODES,
    FORMAT,
    FORMAT_VERSION,
    map_table,
    package_versions,
    read_manifest,
    row_file,
    write_manifest,
)
from xtra_rl.files import FolderLock

ROW_DTYPES: dict[str, np.dtype] = {
    "pixels": np.dtype("uint8"),
    "action": np.dtype("int64"),
    "reward": np.dtype("float32"),
    "terminated": np.dtype("bool"),
    "truncated": np.dtype("bool"),
}


class TrajectoryWriter:
    """Create a dataset or continue one.

    An episode is part of the dataset as soon as :meth:`add_episode` has returned (with ``commit_rows``, as soon as
    enough of them have). A killed writer loses at most the episode it was writing; the next one cuts off what was half
    written and continues behind the last whole episode, which :attr:`num_episodes` tells.

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
        shard_rows: rows after which a new file of frames begins.
        commit_rows: rows after which the episodes added are committed, which waits for the disk; 1 commits each.
        level: of LZ4's high compression, 3 to 12; it changes size and writing time, hardly reading.

    Raises:
        ValueError: if another writer is at work, or the dataset there is damaged, of another task or settings.
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
        shard_rows: int = 65_536,
        commit_rows: int = 1,
        level: int = LEVEL,
    ) -> None:
        if len(frame_shape) != 3 or min(frame_shape) < 1:
            raise ValueError(f"frame_shape={tuple(frame_shape)} must be (C, H, W)")
        if shard_rows < 1 or commit_rows < 1:
            raise ValueError(f"shard_rows={shard_rows} and commit_rows={commit_rows} must be at least 1")
        self.path = Path(path)
        self._shard_rows = shard_rows
        self._commit_rows = commit_rows
        self._level = level
        self._files: dict[str, AppendFile] = {}
        self._pending_rows = 0
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
            self._let_go()
            raise
        if provenance and dict(provenance) not in self._manifest["provenance"]:
            self._manifest["provenance"].append(dict(provenance))
            write_manifest(self.path, self._manifest)

    def _open(self, task: str, env: dict[str, Any]) -> None:
        if (self.path / "manifest.json").exists():
            self._manifest = read_manifest(self.path)
            _check_same(
                self.path, {"task": self._manifest["task"], **self._manifest["env"]}, {"task": task, **env}
            )
        else:
            self._manifest = {
                "format": FORMAT,
                "version": FORMAT_VERSION,
                "task": task,
                "env": env,
                "codec": CODEC,
                "rows": {},
                "num_episodes": 0,
                "num_transitions": 0,
                "raw_bytes": 0,
                "files": {},
                "provenance": [],
                "versions": package_versions(),
            }
            write_manifest(self.path, self._manifest)
        committed: dict[str, FileEntry] = self._manifest["files"]
        self._frame_files = sum(name.startswith("frames/") for name in committed)
        last = {frame_file(self._frame_files - 1)} if self._frame_files else set()
        # Finished frame files are not touched again; all others grow.
        growing = {name for name in committed if not name.startswith("frames/")} | last
        for name in sorted(growing | {EPISODES, BLOCKS}):
            self._files[name] = AppendFile(self.path / name, committed.get(name))
        episodes = map_table(self.path, self._manifest, EPISODES, EPISODE_DTYPE) if committed else ()
        self._numbers: dict[int, set[int]] = {}
        self._num_episodes = 0
        for entry in episodes:
            self._note(int(entry["checkpoint"]), int(entry["number"]))
        self._num_rows = self._manifest["num_transitions"] + self._manifest["num_episodes"]
        self._num_blocks = self._files[BLOCKS].size // BLOCK_DTYPE.itemsize
        # An upper bound, for the last block of an episode is rarely full.
        blocks = (
            map_table(self.path, self._manifest, BLOCKS, BLOCK_DTYPE) if last else np.empty(0, BLOCK_DTYPE)
        )
        in_last = int((blocks["file"] == self._frame_files - 1).sum())
        self._file_rows = in_last * FRAMES_PER_BLOCK if last else self._shard_rows

    @property
    def num_episodes(self) -> int:
        """Episodes in the dataset."""
        return self._num_episodes

    @property
    def num_transitions(self) -> int:
        """Transitions in the dataset."""
        return self._num_rows - self.num_episodes

    def count(self, checkpoint: int) -> int:
        """Return how many episodes of a checkpoint there are; the rest is left to collect."""
        return len(self._numbers.get(checkpoint, ()))

    def numbers(self, checkpoint: int) -> frozenset[int]:
        """Return which episodes of a checkpoint there are, by the ``number`` they were added with."""
        return frozenset(self._numbers.get(checkpoint, ()))

    def _note(self, checkpoint: int, number: int) -> None:
        self._numbers.setdefault(checkpoint, set()).add(number)
        self._num_episodes += 1

    def add_episode(
        self, rows: Mapping[str, Any] | TensorDictBase, *, checkpoint: int = 0, number: int | None = None
    ) -> int:
        """Add one whole episode.

        Args:
            rows: ``[T + 1]`` arrays or tensors: ``pixels [C, H, W]`` uint8 (or compressed frames, as an importer has),
                ``action``, ``reward`` (raw), ``terminated``, ``truncated``, and extra columns, which the first
                episode fixes. The last row is the final observation; its action and reward are ignored.
            checkpoint: number of the agent's checkpoint that played.
            number: of the episode among those of its checkpoint; the next free one by default.

        Returns:
            The number of the episode in the dataset.

        Raises:
            ValueError: if keys, shapes or types do not fit, or the checkpoint has an episode of that number.
        """
        if self._lock is None:
            raise ValueError("this TrajectoryWriter is closed; open a new one to add episodes")
        episode = self._conform(rows)
        taken = self._numbers.get(checkpoint, set())
        if number is None:
            number = max(taken, default=-1) + 1
        if number in taken:
            raise ValueError(
                f"number={number} of checkpoint {checkpoint} is in the dataset already; skip those that"
                " numbers(checkpoint) gives"
            )
        try:
            self._append(episode, checkpoint, number)
            if self._pending_rows >= self._commit_rows:
                self.flush()
        except BaseException:
            # The files may hold half an episode now: go back to what is committed.
            self._let_go()
            raise
        return self.num_episodes - 1

    def _append(self, episode: dict[str, Any], checkpoint: int, episode_number: int) -> None:
        length = len(episode["action"])
        if self._file_rows >= self._shard_rows:
            name = frame_file(self._frame_files)
            self._files[name] = AppendFile(self.path / name)
            self._frame_files, self._file_rows = self._frame_files + 1, 0
        number = self._frame_files - 1
        frames = self._files[frame_file(number)]
        blocks = append_frames(episode["pixels"], frames, number)
        self._files[BLOCKS].append(blocks.tobytes())
        for key, array in episode.items():
            if key != "pixels":
                if row_file(key) not in self._files:
                    self._files[row_file(key)] = AppendFile(self.path / row_file(key))
                little = array.astype(array.dtype.newbyteorder("<"), copy=False)
                self._files[row_file(key)].append(little.tobytes())
        raw_return = float(episode["reward"].sum(dtype=np.float64))
        entry = (self._num_rows, self._num_blocks, length, raw_return, checkpoint, episode_number)
        self._files[EPISODES].append(np.array([entry], EPISODE_DTYPE).tobytes())
        self._num_rows += length
        self._num_blocks += len(blocks)
        self._file_rows += length
        self._pending_rows += length
        self._note(checkpoint, episode_number)
        self._manifest["raw_bytes"] += sum(array.nbytes for array in episode.values())

    def _conform(self, rows: Mapping[str, Any] | TensorDictBase) -> dict[str, Any]:
        """Copies with the types of the dataset; frames compressed."""
        arrays: dict[str, Any] = {name: _as_array(value) for name, value in rows.items()}
        missing = sorted(set(ROW_DTYPES) - set(arrays))
        if missing:
            raise ValueError(f"rows lack {missing}; pass {sorted(ROW_DTYPES)} for every row")
        _check_episode(arrays, tuple(self._manifest["env"]["frame_shape"]))
        pixels = arrays.pop("pixels")
        if not isinstance(pixels, CompressedFrames):
            frames = CompressedFrames(pixels.shape[1:], level=self._level)
            frames.add(pixels)
            pixels = frames
        arrays = {
            name: np.array(array, dtype=ROW_DTYPES.get(name, array.dtype)) for name, array in arrays.items()
        }
        for name in ("action", "reward"):
            arrays[name][-1] = 0
        arrays["pixels"] = pixels
        layout = {name: [array.dtype.str, list(array.shape[1:])] for name, array in sorted(arrays.items())}
        if self._manifest["rows"] not in ({}, layout):
            raise ValueError(f"rows are {layout}, earlier episodes {self._manifest['rows']}; keep one layout")
        self._manifest["rows"] = layout
        return arrays

    def flush(self) -> None:
        """Commit the episodes added so far; does nothing when there are none."""
        if not self._pending_rows:
            return
        # Files first, then the manifest: a kill in between leaves bytes that no manifest knows, to be cut off.
        self._manifest["files"] |= {name: file.sync() for name, file in self._files.items()}
        self._manifest["num_episodes"] = self.num_episodes
        self._manifest["num_transitions"] = self.num_transitions
        write_manifest(self.path, self._manifest)
        self._pending_rows = 0
        growing = frame_file(self._frame_files - 1)
        for name in [name for name in self._files if name.startswith("frames/") and name != growing]:
            self._files.pop(name).close()

    def close(self) -> None:
        """Commit what is pending and let go of the folder; a second call does nothing."""
        if self._lock is None:
            return
        try:
            self.flush()
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _as_array(value: Any) -> np.ndarray | CompressedFrames:
    if isinstance(value, CompressedFrames):
        return value
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _check_same(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    for key in sorted({*found, *asked}):
        if found.get(key) != asked.get(key):
            raise DatasetError(
                f"dataset {str(path)!r} was written with {key}={found.get(key)!r}, {key}={asked.get(key)!r} "
                "was asked; write to another folder or use the same settings"
            )


def _check_episode(arrays: dict[str, Any], frame_shape: tuple[int, ...]) -> None:
    lengths = {name: len(array) for name, array in arrays.items() if array.shape}
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
