"""Datasets of whole episodes on disk: single uint8 frames, losslessly compressed.

A dataset is a folder whose ``manifest.json`` says what it is, how it was made, and size and hash of every file::

    episodes.bin, blocks.bin   one entry for each episode and for each block of frames, mapped into memory
    rows/<key>.bin             action, reward, ... of every row, mapped into memory
    frames/000000.lz4 ...      frames in compressed blocks
    columns/<name>/            values computed later, such as a teacher's

A trajectory of T transitions has T + 1 rows, the last being the final observation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from xtra_rl.data.append_file import DatasetError, check_size, verify_file
from xtra_rl.data.buffers import TrajectoryReplayBuffer
from xtra_rl.data.columns import Column, ColumnWriter
from xtra_rl.data.dataset_buffer import DatasetReplayBuffer, small_rows
from xtra_rl.data.frames import BLOCK_DTYPE, FrameReader
from xtra_rl.data.manifest import (
    BLOCKS,
    EPISODE_DTYPE,
    EPISODES,
    fingerprint,
    map_table,
    read_manifest,
    row_file,
)
from xtra_rl.data.trajectory_writer import ROW_DTYPES, TrajectoryWriter

__all__ = ["DatasetError", "TrajectoryDataset", "TrajectoryWriter"]


class TrajectoryDataset:
    """Read a dataset that a :class:`TrajectoryWriter` wrote.

    Opening checks the manifest, the size of every file and the hash of the two tables; reading checks the blocks of
    frames it touches; :meth:`verify` checks everything.

    Args:
        path: folder of the dataset.

    Attributes:
        episodes: ``[E]`` table of episodes with ``first_row``, ``length`` (rows), ``raw_return`` and ``checkpoint``.
        frames: reads frames by row.

    Raises:
        DatasetError: (a ValueError) if the dataset is missing, empty, damaged or of another format version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest = read_manifest(self.path)
        if self.manifest["num_episodes"] == 0:
            raise DatasetError(f"dataset {str(self.path)!r} is empty; collect at least one episode")
        for name, entry in self.manifest["files"].items():
            check_size(self.path / name, entry)
        for name in (EPISODES, BLOCKS):
            verify_file(self.path / name, self.manifest["files"][name])
        self.episodes = map_table(self.path, self.manifest, EPISODES, EPISODE_DTYPE)
        layout = {
            name: (np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in self.manifest["rows"].items()
        }
        self._tables = {
            name: map_table(self.path, self.manifest, row_file(name), dtype, shape)
            for name, (dtype, shape) in layout.items()
            if name != "pixels"
        }
        self.frames = FrameReader(
            self.path,
            [name for name in sorted(self.files) if name.startswith("frames/")],
            map_table(self.path, self.manifest, BLOCKS, BLOCK_DTYPE),
            first_row=np.array(self.episodes["first_row"]),
            first_block=np.array(self.episodes["first_block"]),
            num_rows=self.num_transitions + self.num_episodes,
            frame_shape=self.frame_shape,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process opens the folder anew: nothing that is mapped travels."""
        return type(self), (self.path,)

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Size (``bytes``) and hash (``sha256``) of every file but the manifest and the columns, by name."""
        return self.manifest["files"]

    @property
    def raw_bytes(self) -> int:
        """Bytes of all rows without compression."""
        return int(self.manifest["raw_bytes"])

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk, without columns."""
        return sum(entry["bytes"] for entry in self.files.values())

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
        return int(self.manifest["num_transitions"])

    @property
    def returns(self) -> np.ndarray:
        """Raw (unclipped, undiscounted) return of each episode, ``[E]``."""
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
        """Return rows ``start .. stop - 1`` of one key of an episode, ``[stop - start, ...]``.

        Only the blocks of frames with these rows are read.

        Args:
            episode: its number in the dataset, from 0.
            name: one of ``row_keys``, such as ``pixels`` or ``reward``.
            start: first row.
            stop: row after the last one; None = the end of the episode, its final observation included.

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
        first = int(entry["first_row"])
        if name == "pixels":
            return torch.from_numpy(self.frames.read(first + start, first + stop))
        return torch.from_numpy(np.array(self._tables[name][first + start : first + stop]))

    def table(self, name: str) -> np.ndarray:
        """One key of all rows of the dataset, ``[rows, ...]``, mapped into memory; frames are read by ``frames``.

        Raises:
            ValueError: if the key is not stored.
        """
        if name not in self._tables:
            raise ValueError(f"name={name!r} is not a table; the tables are {sorted(self._tables)}")
        return self._tables[name]

    def episode(self, number: int, *, columns: Sequence[str] = ()) -> TensorDict:
        """Return all rows of an episode, ``[T + 1]``, with columns beside the data added."""
        first, length = int(self.episodes[number]["first_row"]), int(self.episodes[number]["length"])
        rows = {name: self.read(number, name) for name in self.row_keys}
        for name in columns:
            if name not in rows:
                rows[name] = torch.from_numpy(
                    np.array(self._open_column(name).values[first : first + length])
                )
        return TensorDict(rows, [length])

    def __iter__(self) -> Iterator[TensorDict]:
        for number in range(self.num_episodes):
            yield self.episode(number)

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
        if (self.path / "columns" / name).is_dir():
            self.column_writer(name).discard()
        with self.column_writer(name, provenance=provenance) as writer:
            try:
                for array in arrays:
                    writer.add(np.asarray(array.detach().cpu() if isinstance(array, Tensor) else array))
                writer.finish()
            except ValueError:
                writer.discard()
                raise

    def column_writer(
        self, name: str, *, provenance: Mapping[str, Any] | None = None, commit_rows: int = 8192
    ) -> ColumnWriter:
        """Begin a column, or continue one that was begun with the same provenance and left unfinished.

        Args:
            name: see :meth:`write_column`.
            provenance: see there.
            commit_rows: rows after which what is written is safe from a kill.

        Raises:
            ValueError: if the name is taken by the data, or another writer is at work.
        """
        if name in self.row_keys or not name.isidentifier():
            raise ValueError(
                f"name={name!r} must be an identifier that is none of the stored keys {self.row_keys}"
            )
        return ColumnWriter(
            self.path / "columns" / name,
            name,
            lengths=self.episodes["length"],
            fingerprint=self.fingerprint,
            provenance=provenance or {},
            commit_rows=commit_rows,
        )

    def column(self, name: str, *, provenance: Mapping[str, Any] | None = None) -> list[Tensor]:
        """Return a column, ``[T + 1, ...]`` for each episode.

        Args:
            name: of a column written with :meth:`write_column`.
            provenance: entries that the column must have been written with.

        Raises:
            DatasetError: naming the column if it is missing, unfinished, damaged or stale, with what to do.
        """
        column = self._open_column(name, provenance)
        column.verify()
        return [
            torch.from_numpy(
                np.array(column.values[entry["first_row"] : entry["first_row"] + entry["length"]])
            )
            for entry in self.episodes
        ]

    def has_column(self, name: str, *, provenance: Mapping[str, Any] | None = None) -> bool:
        """Whether :meth:`column` would find a column that is up to date."""
        try:
            self._open_column(name, provenance)
        except DatasetError:
            return False
        return True

    def column_provenance(self, name: str) -> dict[str, Any]:
        """What made a column that is up to date; raises as :meth:`column`."""
        return self._open_column(name).provenance

    def column_names(self) -> list[str]:
        """Names of the columns beside the data, unfinished and stale ones included."""
        return sorted(folder.name for folder in (self.path / "columns").glob("*") if folder.is_dir())

    def _open_column(self, name: str, provenance: Mapping[str, Any] | None = None) -> Column:
        return Column(self.path / "columns" / name, name, fingerprint=self.fingerprint, provenance=provenance)

    def verify(self, on_file: Callable[[str], None] | None = None) -> None:
        """Check the hash of every file and of every finished column; columns may be stale.

        Args:
            on_file: told the name of each file that was checked.

        Raises:
            DatasetError: naming each file that differs.
        """
        checks = self._checks()
        found = []
        for name, check in checks.items():
            try:
                check()
            except DatasetError as error:
                found.append(str(error))
            if on_file is not None:
                on_file(name)
        if found:
            raise DatasetError("\n".join(found))

    @property
    def num_checks(self) -> int:
        """How many files :meth:`verify` looks at."""
        return len(self._checks())

    def _checks(self) -> dict[str, Callable[[], None]]:
        checks: dict[str, Callable[[], None]] = {
            name: partial(verify_file, self.path / name, entry)
            for name, entry in self.manifest["files"].items()
        }
        for name in self.column_names():
            # Without this file nothing of the column was committed.
            if (self.path / "columns" / name / "column.json").is_file():
                checks[f"columns/{name}"] = partial(self._verify_column, name)
        return checks

    def _verify_column(self, name: str) -> None:
        Column(self.path / "columns" / name, name, fingerprint=None, unfinished=True).verify()

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
        reuse_memory: bool = False,
    ) -> TrajectoryReplayBuffer:
        """Sample windows of the episodes; frames are decompressed as they are drawn.

        The buffer reads from the dataset and cannot be written to.

        Args:
            columns: targets to take along, stored with the rows or beside them.
            provenance: entries that columns beside the rows must have been written with.
            episodes: numbers of the episodes, ascending; None takes all.
            num_actions: see :class:`~xtra_rl.data.TrajectoryReplayBuffer`, also for the next five.
            alpha: see there.
            beta: see there.
            seed: see there.
            generator: see there.
            reuse_memory: see there.

        Raises:
            DatasetError: if a column is missing or stale, or a row file or column damaged.
        """
        chosen = np.arange(self.num_episodes) if episodes is None else np.array(sorted(episodes), np.int64)
        if len(chosen) == 0:
            raise ValueError("episodes is empty; choose at least one")
        tables = {}
        for name in [*ROW_DTYPES, *columns]:
            if name in self._tables:
                verify_file(self.path / row_file(name), self.manifest["files"][row_file(name)])
                tables[name] = self._tables[name]
            elif name != "pixels":
                column = self._open_column(name, provenance)
                column.verify()
                tables[name] = column.values
        whole = len(chosen) == self.num_episodes
        first_row, lengths = self.episodes["first_row"][chosen], self.episodes["length"][chosen]
        return DatasetReplayBuffer(
            small_rows(tables, first_row, lengths, whole=whole),
            self.frames if whole else self.frames.select(chosen),
            num_actions=num_actions,
            alpha=alpha,
            beta=beta,
            generator=generator if generator is not None else torch.Generator().manual_seed(seed),
            reuse_memory=reuse_memory,
        )
