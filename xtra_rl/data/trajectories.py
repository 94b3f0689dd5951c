"""Datasets of whole episodes on disk: single uint8 frames, losslessly compressed.

A dataset is a folder: ``manifest.json`` (what it is, how it was made, the hash of every shard), ``index.npy``
(one entry for each episode), ``shards/`` and ``columns/<name>/`` for values computed later. A trajectory of T
transitions has T + 1 rows, the last being the final observation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from xtra_rl.data.buffers import TrajectoryReplayBuffer
from xtra_rl.data.columns import Column, check_files, verify_files, write_column
from xtra_rl.data.manifest import fingerprint, read_index, read_manifest
from xtra_rl.data.shards import DatasetError, Shard
from xtra_rl.data.trajectory_writer import ROW_DTYPES, TrajectoryWriter

__all__ = ["DatasetError", "TrajectoryDataset", "TrajectoryWriter"]

logger = logging.getLogger(__name__)


class TrajectoryDataset:
    """Read a dataset that a :class:`TrajectoryWriter` wrote.

    Opening checks the manifest, the index and the size of every shard; reading checks the blocks it touches;
    :meth:`verify` checks everything.

    Args:
        path: folder of the dataset.

    Raises:
        DatasetError: (a ValueError) if the dataset is missing, empty, damaged or of another format version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        if self.manifest["num_episodes"] == 0:
            raise DatasetError(f"dataset {str(self.path)!r} is empty; collect at least one episode")
        self.episodes = read_index(self.path, self.manifest)
        check_files(self.path / "shards", self.manifest["shards"])
        self._shards = [Shard(self.path / "shards" / shard["file"]) for shard in self.manifest["shards"]]

    @property
    def task(self) -> str:
        """Name of the task the episodes are of."""
        return self.manifest["task"]

    @property
    def frame_shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of a frame."""
        return tuple(self.manifest["env"]["frame_shape"])

    @property
    def env_settings(self) -> dict[str, Any]:
        """Settings of the environment, such as ``frame_skip``, ``sticky`` and ``grayscale``."""
        return dict(self.manifest["env"])

    @property
    def row_keys(self) -> tuple[str, ...]:
        """Keys stored with the episodes themselves."""
        return tuple(self.manifest["rows"])

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.episodes)

    @property
    def num_transitions(self) -> int:
        """Number of transitions; final observations do not count."""
        return int(self.episodes["length"].sum()) - self.num_episodes

    @property
    def returns(self) -> np.ndarray:
        """Raw (unclipped, undiscounted) return of each episode."""
        return np.array(self.episodes["raw_return"])

    @property
    def fingerprint(self) -> str:
        """Hash of all content; changes when episodes are added."""
        return fingerprint(self.manifest)

    def __len__(self) -> int:
        return self.num_episodes

    def check_frames(self, expected_shape: Sequence[int]) -> None:
        """Refuse a dataset of other frames than a model or a configuration expects.

        Raises:
            DatasetError: naming both shapes.
        """
        if tuple(expected_shape) != self.frame_shape:
            raise DatasetError(
                f"dataset {str(self.path)!r} holds frames of shape {self.frame_shape}, "
                f"{tuple(expected_shape)} was asked; collect it again with these settings or change "
                "image_size and grayscale"
            )

    def read(self, episode: int, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Return rows ``start .. stop - 1`` of one key of an episode; only the blocks with these rows are
        read.

        Raises:
            DatasetError: if the shard is damaged.
            ValueError: if the rows are not in the episode.
        """
        entry = self.episodes[episode]
        length = int(entry["length"])
        stop = length if stop is None else stop
        if not 0 <= start <= stop <= length:
            raise ValueError(f"rows {start}..{stop} must lie in the {length} rows of episode {episode}")
        if name not in self.row_keys:
            raise ValueError(f"name={name!r} is not stored; the keys are {list(self.row_keys)}")
        offset = int(entry["offset"])
        return torch.from_numpy(self._shards[int(entry["shard"])].read(name, offset + start, offset + stop))

    def episode(self, number: int, *, columns: Sequence[str] = ()) -> TensorDict:
        """Return all rows of an episode, ``[T + 1]``, with columns beside the data added."""
        opened = {name: self._open_column(name) for name in columns if name not in self.row_keys}
        return self._episode(number, opened)

    def __iter__(self) -> Iterator[TensorDict]:
        for number in range(self.num_episodes):
            yield self._episode(number, {})

    def _episode(self, number: int, columns: Mapping[str, Column]) -> TensorDict:
        entry = self.episodes[number]
        length = int(entry["length"])
        rows = {name: self.read(number, name) for name in self.row_keys}
        rows |= {name: torch.from_numpy(column.read(entry, 0, length)) for name, column in columns.items()}
        return TensorDict(rows, [length])

    def write_column(
        self, name: str, arrays: Iterable[np.ndarray | Tensor], *, provenance: Mapping[str, Any] | None = None
    ) -> None:
        """Store one value per row beside the data, replacing an older column of that name.

        Args:
            name: such as ``teacher_policy``.
            arrays: ``[T + 1, ...]`` for each episode in order; a generator keeps memory low.
            provenance: what made it, e.g. ``{"teacher": hash}``; checked on reading.

        Raises:
            ValueError: if the name is taken by the data or an array does not fit its episode.
        """
        if name in self.row_keys or not name.isidentifier():
            raise ValueError(
                f"name={name!r} must be an identifier that is none of the stored keys {self.row_keys}"
            )
        write_column(
            self.path / "columns" / name,
            name,
            (np.asarray(array.detach().cpu() if isinstance(array, Tensor) else array) for array in arrays),
            episodes=self.episodes,
            fingerprint=self.fingerprint,
            provenance=provenance or {},
        )

    def column(self, name: str, *, provenance: Mapping[str, Any] | None = None) -> list[Tensor]:
        """Return a column, ``[T + 1, ...]`` for each episode.

        Args:
            name: of a column written with :meth:`write_column`.
            provenance: entries that the column must have been written with.

        Raises:
            DatasetError: naming the column if it is missing, damaged or stale, with what to do.
        """
        column = self._open_column(name, provenance)
        return [torch.from_numpy(column.read(entry, 0, int(entry["length"]))) for entry in self.episodes]

    def has_column(self, name: str, *, provenance: Mapping[str, Any] | None = None) -> bool:
        """Whether :meth:`column` would find a column that is up to date."""
        try:
            self._open_column(name, provenance)
        except DatasetError:
            return False
        return True

    def _open_column(self, name: str, provenance: Mapping[str, Any] | None = None) -> Column:
        return Column(self.path / "columns" / name, name, fingerprint=self.fingerprint, provenance=provenance)

    def verify(self) -> None:
        """Check the hash of every shard and column; columns may be stale.

        Raises:
            DatasetError: naming the first file that differs.
        """
        verify_files(self.path / "shards", self.manifest["shards"])
        for folder in sorted((self.path / "columns").glob("*/column.json")):
            Column(folder.parent, folder.parent.name, fingerprint=None).verify()

    def to_replay_buffer(
        self,
        columns: Sequence[str] = ("teacher_policy", "teacher_value"),
        *,
        provenance: Mapping[str, Any] | None = None,
        episodes: Iterable[int] | None = None,
        num_actions: int = 18,
        alpha: float = 0.6,
        beta: float = 0.4,
        seed: int = 0,
        generator: torch.Generator | None = None,
        scratch_dir: str | Path | None = None,
        memmap: bool = True,
        reuse_memory: bool = False,
    ) -> TrajectoryReplayBuffer:
        """Decompress episodes into a buffer that holds all of them.

        Args:
            columns: targets to take along, stored with the rows or beside them.
            provenance: entries that columns beside the rows must have been written with.
            episodes: numbers of the episodes; None takes all.
            num_actions, alpha, beta, seed, generator, scratch_dir, memmap, reuse_memory: see
                :class:`TrajectoryReplayBuffer`.

        Raises:
            DatasetError: if a column is missing or stale, or a shard damaged.
        """
        chosen = list(range(self.num_episodes)) if episodes is None else list(episodes)
        if not chosen:
            raise ValueError("episodes is empty; choose at least one")
        opened = {name: self._open_column(name, provenance) for name in columns if name not in self.row_keys}
        buffer = TrajectoryReplayBuffer(
            int(self.episodes["length"][chosen].sum()),
            num_actions=num_actions,
            alpha=alpha,
            beta=beta,
            scratch_dir=scratch_dir,
            memmap=memmap,
            reuse_memory=reuse_memory,
            seed=seed,
            generator=generator,
        )
        keys = [*ROW_DTYPES, *columns]
        for number in chosen:
            buffer.extend_trajectory(self._episode(number, opened).select(*keys))
        logger.info("loaded %d transitions of %s from %s", buffer.num_transitions, self.task, self.path)
        return buffer
