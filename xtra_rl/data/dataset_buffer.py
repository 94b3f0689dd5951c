"""The replay buffer of a dataset on disk: windows are read from the compressed files as they are drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data.replay_buffers import TensorStorage

from xtra_rl.data.buffers import TrajectoryReplayBuffer
from xtra_rl.data.frames import FrameReader
from xtra_rl.data.writer import ColumnWriter


class DatasetReplayBuffer(TrajectoryReplayBuffer):
    """Sample windows of stored episodes without loading them, see :meth:`TrajectoryDataset.to_replay_buffer`.

    It samples as a :class:`TrajectoryReplayBuffer` does, bit for bit, and cannot be written to. Frames and columns stay
    on disk, mapped into memory that the operating system takes back when it is short. What a transition costs for good
    is 20 bytes (position and priorities): 0.2 GB for eight million.

    Args:
        rows: TensorDict ``[N]`` of the small row keys, in order, all episodes whole.
        frames: reads the frames of these rows, and knows where episodes begin.
        num_actions: see :class:`TrajectoryReplayBuffer`, also for the next four.
        alpha: see there.
        beta: see there.
        generator: see there.
        reuse_memory: see there.
    """

    def __init__(
        self,
        rows: TensorDictBase,
        frames: FrameReader,
        *,
        num_actions: int,
        alpha: float,
        beta: float,
        generator: torch.Generator,
        reuse_memory: bool = False,
    ) -> None:
        size, first_row = len(rows), frames.first_row
        writer = ColumnWriter(1, size)
        writer.written += size
        writer.total_added = size - len(first_row)
        self._frames = frames
        lengths = np.diff(np.append(first_row, size))
        step = np.arange(size) - np.repeat(first_row, lengths)
        rows = rows.copy().set("step", torch.from_numpy(step.astype(np.int32)))
        self._set_up(
            TensorStorage(rows),
            writer,
            num_actions=num_actions,
            alpha=alpha,
            beta=beta,
            reuse_memory=reuse_memory,
            generator=generator,
        )
        final = torch.from_numpy(first_row + lengths - 1)
        self._sampler.activate(torch.arange(size))
        self._sampler.deactivate(final)

    def _stamps(self, rows: Tensor) -> Tensor:
        # Every episode before the row's has one row that is no transition.
        return rows - torch.from_numpy(self._frames.episode_of(rows.numpy()))

    def _gather_pixels(self, rows: Tensor) -> Tensor:
        memory = self._memory_for(rows, self._frames.frame_shape)
        frames = self._frames.gather(rows.reshape(-1).numpy(), None if memory is None else memory.numpy())
        return torch.from_numpy(frames).view(*rows.shape, *self._frames.frame_shape)

    def append(self, rows: TensorDictBase, env_index: Tensor) -> Tensor:
        """Refused: write new episodes with a :class:`TrajectoryWriter`.

        Raises:
            ValueError: always.
        """
        raise ValueError("a buffer over a dataset cannot be written to; add episodes with a TrajectoryWriter")

    def extend_trajectory(self, rows: TensorDictBase, env_index: int = 0) -> Tensor:
        """Refused: write new episodes with a :class:`TrajectoryWriter`."""
        return self.append(rows, torch.tensor(env_index))

    def state_dict(self) -> dict[str, Any]:
        """Priorities and random state; the rows are the dataset's."""
        return {"sampler": self._sampler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._sampler.load_state_dict(state_dict["sampler"])

    def dumps(self, path: str | Path) -> None:
        """Save :meth:`state_dict` to a folder."""
        self._sampler.dumps(Path(path) / "sampler")

    def loads(self, path: str | Path) -> None:
        """Restore what :meth:`dumps` saved."""
        self._sampler.loads(Path(path) / "sampler")


def small_rows(
    tables: dict[str, np.ndarray], first_row: np.ndarray, lengths: np.ndarray, *, whole: bool
) -> TensorDict:
    """Row keys of some episodes: mapped as they are if these are ``whole`` tables, else copied together."""
    if not whole:
        chosen = [np.arange(start, start + n) for start, n in zip(first_row, lengths, strict=True)]
        index = np.concatenate(chosen)
        tables = {name: table[index] for name, table in tables.items()}
    size = int(lengths.sum())
    return TensorDict({name: torch.from_numpy(table) for name, table in tables.items()}, [size])
