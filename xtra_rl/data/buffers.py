"""The replay buffer of one task: trajectories of several environments in a memory-mapped storage."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data.replay_buffers import (
    LazyMemmapStorage,
    LazyTensorStorage,
    TensorDictReplayBuffer,
    TensorStorage,
)

from xtra_rl.data.rows import conform_rows, trajectory_rows
from xtra_rl.data.sampler import TorchPrioritizedSampler
from xtra_rl.data.snapshot import buffer_state, load_buffer, load_buffer_state, save_buffer
from xtra_rl.data.windows import as_array, gather_rows, gather_window, window_rows
from xtra_rl.data.writer import ColumnWriter, Placement
from xtra_rl.files import FolderLock


class TrajectoryReplayBuffer(TensorDictReplayBuffer):
    """Store trajectories frame by frame and sample windows that never leave a trajectory.

    One row holds one frame with the action taken in it. A trajectory of T transitions is T + 1 consecutive
    rows, the last being the final observation (``has_action=False``). Each environment owns a ring of
    ``capacity // num_envs`` rows; a row counts as a transition as soon as its successor is stored, also while
    its trajectory is running.

    Row keys: ``pixels [C, H, W]`` uint8, or float32 for states that are no pictures; ``action []`` int64,
    ``reward []`` float32 (raw), ``terminated []``, ``truncated []`` and ``has_action []`` bool; optionally
    ``step []`` int32 (counted when absent) and the targets ``search_policy [A]``, ``search_value []``,
    ``teacher_policy [A]``, ``teacher_value []`` float32.
    The first rows written fix which of them the buffer has. ``terminated`` and ``truncated`` belong to the
    action of their row.

    Args:
        capacity: rows in all; a multiple of ``num_envs`` uses it fully.
        num_envs: N, number of columns.
        num_actions: A; actions beyond the end of a trajectory are drawn uniformly from 0..A-1.
        alpha: exponent of the priorities, 0 for uniform sampling.
        beta: exponent of the importance weights, see :meth:`set_beta`.
        scratch_dir: folder of the memory-mapped rows, kept after the buffer is gone; None makes a temporary
            one that goes with the buffer. It is scratch: :meth:`dumps` is what saves a buffer.
        memmap: False keeps the rows in memory, for small buffers. Memory-mapped rows are pickled as names of
            files (TensorDict's way): the copy then shares them with the original, unlike one by :meth:`dumps`.
        reuse_memory: True writes the ``pixels`` of each batch over those of the last one. Fresh memory for a
            large batch can cost several times the copy; clone what is kept past the next draw.
        seed: seeds the generator when none is given.
        generator: source of all randomness, on the CPU.

    Raises:
        ValueError: if the capacity is below two rows for each environment, or the folder is in use.

    Example:
        >>> buffer = TrajectoryReplayBuffer(100, num_actions=3, memmap=False)
        >>> rows = TensorDict({"pixels": torch.zeros(6, 1, 8, 8, dtype=torch.uint8), "action": torch.zeros(6),
        ...                    "reward": torch.ones(6)}, [6])
        >>> _ = buffer.extend_trajectory(rows)
        >>> buffer.num_transitions
        5
        >>> buffer.sample_windows(2, unroll_steps=2, bootstrap_steps=3, frame_stack=4)["pixels"].shape
        torch.Size([2, 9, 1, 8, 8])
    """

    def __init__(
        self,
        capacity: int,
        *,
        num_envs: int = 1,
        num_actions: int = 18,
        alpha: float = 0.6,
        beta: float = 0.4,
        scratch_dir: str | Path | None = None,
        memmap: bool = True,
        reuse_memory: bool = False,
        seed: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        if num_envs < 1 or capacity // num_envs < 2:
            raise ValueError(
                f"capacity={capacity} must hold at least two rows for each of num_envs={num_envs}"
            )
        rows = capacity // num_envs * num_envs
        self._set_up(
            self._make_storage(rows, scratch_dir) if memmap else LazyTensorStorage(rows),
            ColumnWriter(num_envs, capacity // num_envs),
            num_actions=num_actions,
            alpha=alpha,
            beta=beta,
            reuse_memory=reuse_memory,
            generator=generator if generator is not None else torch.Generator().manual_seed(seed),
        )

    def _set_up(
        self,
        storage: TensorStorage,
        writer: ColumnWriter,
        *,
        num_actions: int,
        alpha: float,
        beta: float,
        reuse_memory: bool,
        generator: torch.Generator,
    ) -> None:
        if num_actions < 1:
            raise ValueError(f"num_actions={num_actions} must be at least 1")
        self.num_actions = num_actions
        self._reuse_memory = reuse_memory
        self._frame_memory: Tensor | None = None
        sampler = TorchPrioritizedSampler(storage.max_size, alpha=alpha, beta=beta)
        TensorDictReplayBuffer.__init__(
            self, storage=storage, sampler=sampler, writer=writer, generator=generator
        )

    def _make_storage(self, rows: int, scratch_dir: str | Path | None) -> LazyMemmapStorage:
        if scratch_dir is None:
            # TorchRL's own temporary folders come with process-wide signal handlers.
            self._temporary = tempfile.TemporaryDirectory(
                prefix="xtra_rl-replay-", ignore_cleanup_errors=True
            )
            scratch_dir = self._temporary.name
        else:
            # A folder left by a killed run is taken over; one of a living buffer is refused.
            self._lock = FolderLock(Path(scratch_dir), owner="replay buffer")
        return LazyMemmapStorage(rows, scratch_dir=str(scratch_dir), existsok=True, auto_cleanup=False)

    @property
    def num_envs(self) -> int:
        """N, number of columns."""
        return self._writer.num_columns

    @property
    def max_rows(self) -> int:
        """Rows that fit."""
        return self._storage.max_size

    @property
    def reuses_memory(self) -> bool:
        """Whether the ``pixels`` of a batch are overwritten by the next one."""
        return self._reuse_memory

    @property
    def num_transitions(self) -> int:
        """Transitions that can be sampled now."""
        return self._sampler.num_active

    @property
    def total_added(self) -> int:
        """Transitions ever received: rows with an action."""
        return self._writer.total_added

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the stored row keys; empty before the first write."""
        return tuple(sorted(self._rows.keys())) if self._storage.initialized else ()

    @property
    def _rows(self) -> TensorDictBase:
        return self._storage._storage

    def __len__(self) -> int:
        """Number of stored rows, final observations included."""
        return self._writer.num_rows

    def append(self, rows: TensorDictBase, env_index: Tensor) -> Tensor:
        """Write rows of running environments, in order.

        Args:
            rows: TensorDict ``[n]`` of the row keys above.
            env_index: ``[n]`` int64 environment of each row; one that appears twice gets its rows in order.

        Returns:
            ``[n]`` int64 storage rows.

        Raises:
            ValueError: if keys, shapes, numbers or environments do not fit, or a row does not follow the one
                before it.
        """
        rows = self._conform(rows)
        env_index = torch.as_tensor(env_index, dtype=torch.long)
        if env_index.shape != rows.shape:
            raise ValueError(
                f"env_index has shape {tuple(env_index.shape)}; pass one entry for each of {len(rows)} rows"
            )
        if len(rows) and bool(((env_index < 0) | (env_index >= self.num_envs)).any()):
            raise ValueError(f"env_index={env_index.tolist()} must lie in 0..{self.num_envs - 1}")
        index = torch.empty_like(env_index)
        left = torch.arange(len(rows))
        with self._replay_lock:
            rows["stamp"] = self._writer.stamps(rows["has_action"])
            while left.numel():
                first = _first_of_each(env_index[left], self.num_envs)
                now, left = left[first], left[~first]
                index[now] = self._append_distinct(
                    rows if now.numel() == len(rows) else rows[now], env_index[now]
                )
        return index

    def _conform(self, rows: TensorDictBase) -> TensorDict:
        stored = self._rows if self._storage.initialized else None
        return conform_rows(rows, stored, num_actions=self.num_actions)

    def _append_distinct(self, rows: TensorDict, env: Tensor) -> Tensor:
        ended = rows["terminated"] | rows["truncated"]
        return self._write(rows, self._writer.place(env, rows["has_action"], ended, rows.get("step", None)))

    def _write(self, rows: TensorDict, placement: Placement) -> Tensor:
        rows = rows.copy().update({"step": placement.step})
        self._storage.set(placement.rows, rows, set_cursor=False)
        self._storage._len = max(self._storage._len, int(placement.rows.max()) + 1)
        self._sampler.deactivate(placement.rows)
        self._sampler.activate(placement.completed)
        return placement.rows

    def extend_trajectory(self, rows: TensorDictBase, env_index: int = 0) -> Tensor:
        """Write one whole trajectory of T transitions.

        Args:
            rows: TensorDict ``[T + 1]``; the last row is the final observation. Flags that are absent are
                False.
            env_index: column that takes it.

        Returns:
            ``[T + 1]`` int64 storage rows.

        Raises:
            ValueError: if it does not fit the column or ends before its last transition.
        """
        rows = self._conform(trajectory_rows(rows))
        if not 0 <= env_index < self.num_envs:
            raise ValueError(f"env_index={env_index} must lie in 0..{self.num_envs - 1}")
        with self._replay_lock:
            rows["stamp"] = self._writer.stamps(rows["has_action"])
            return self._write(rows, self._writer.place_trajectory(env_index, len(rows)))

    def extend(self, tensordicts: TensorDictBase, *, update_priority: bool | None = None) -> Tensor:
        """Write rows ``[n]`` as :meth:`append` does, with a key ``env_index [n]``, which one column may omit.

        Raises:
            ValueError: as :meth:`append`, or if the key is missing and there are several columns.
        """
        env_index = tensordicts.get("env_index", None)
        if env_index is None:
            if self.num_envs > 1:
                raise ValueError(f"env_index is missing; with num_envs={self.num_envs} say whose each row is")
            env_index = torch.zeros(len(tensordicts), dtype=torch.long)
        return self.append(tensordicts.exclude("env_index"), env_index)

    def add(self, data: TensorDictBase) -> Tensor:
        """Write a single row, see :meth:`extend`."""
        return self.extend(data.unsqueeze(0))

    def sample_windows(
        self,
        batch_size: int,
        *,
        unroll_steps: int,
        bootstrap_steps: int,
        frame_stack: int,
        bootstrap_pixels: bool = True,
        rows: slice = slice(None),
    ) -> TensorDict:
        """Sample windows of ``W = unroll_steps + bootstrap_steps`` transitions from prioritised roots.

        Nothing of another trajectory appears: frames before the first row repeat it, frames behind the last row
        repeat that, and masks say what is real.

        Args:
            batch_size: B, windows; distinct roots when the buffer holds as many transitions.
            unroll_steps: K, at least 0.
            bootstrap_steps: n, at least 0.
            frame_stack: F, at least 1; see :func:`xtra_rl.data.windows.stack_frames`.
            bootstrap_pixels: False leaves out the frames behind position K.
            rows: which of the B to return; all are drawn, so that several processes may each read a part.

        Returns:
            TensorDict ``[B]`` with ``pixels [B, F - 1 + K + 1 (+ n), C, H, W]`` as stored; ``action [B, W]``
            (uniformly random where no transition exists); ``reward [B, W]`` raw, 0 where none;
            ``transition_mask [B, W]``; ``observation_mask [B, W + 1]``; ``terminated [B, W]``;
            ``search_policy`` and ``teacher_policy [B, K + 1, A]``, ``search_value`` and ``teacher_value [B, W
            + 1]`` as far as stored; ``age [B]`` in transitions; ``index [B]`` for :meth:`update_priority`;
            ``priority_weight [B]`` in (0, 1]; ``key [B, W + 1]`` int64, a name of the frame stack at each position that
            no other stack of this buffer ever had or will have, modulo :attr:`max_rows` its row, -1 where a frame of it
            was overwritten or does not exist.

        Raises:
            ValueError: if the buffer is empty or an argument is out of range.
        """
        for name, value, low in (
            ("batch_size", batch_size, 1),
            ("unroll_steps", unroll_steps, 0),
            ("bootstrap_steps", bootstrap_steps, 0),
            ("frame_stack", frame_stack, 1),
        ):
            if value < low:
                raise ValueError(f"{name}={value} must be at least {low}")
        with self._replay_lock:
            index, info = self._sampler.sample(self._storage, batch_size)
            window = self._window(
                index, unroll_steps, unroll_steps + bootstrap_steps, frame_stack, bootstrap_pixels, rows
            )
        return window.update({"index": index[rows], "priority_weight": info["priority_weight"][rows]})

    def _window(
        self,
        root: Tensor,
        unroll: int,
        width: int,
        frame_stack: int,
        bootstrap_pixels: bool,
        part: slice = slice(None),
    ) -> TensorDict:
        random_action = torch.randint(self.num_actions, (root.numel(), width), generator=self._rng)
        random_action, root = random_action[part], root[part]
        stored, writer = self._rows, self._writer
        rows = window_rows(
            root.numpy(),
            as_array(stored["step"]),
            writer.written.numpy(),
            writer.ring_size,
            num_transitions=width,
            frame_stack=frame_stack,
        )
        shown = rows.future if bootstrap_pixels else rows.future[:, : unroll + 1]
        window = gather_window(stored, rows, unroll_steps=unroll, filler_action=random_action.numpy())
        window["pixels"] = self._gather_pixels(torch.from_numpy(np.concatenate([rows.history, shown], 1)))
        window["age"] = writer.total_added - self._stamps(root)
        future = torch.from_numpy(rows.future)
        key = (self._stamps(future) + writer.stamp_offset) * self.max_rows + future
        window["key"] = torch.where(torch.from_numpy(rows.whole_stack), key, -1)
        return TensorDict(window, [root.numel()])

    def _stamps(self, rows: Tensor) -> Tensor:
        """Number of transitions received before those of ``rows [...]``."""
        return gather_rows(self._rows["stamp"], rows)

    def _gather_pixels(self, rows: Tensor) -> Tensor:
        frames = self._rows["pixels"]
        return gather_rows(frames, rows, out=self._memory_for(rows, frames.shape[1:], frames.dtype))

    def _memory_for(
        self, rows: Tensor, frame_shape: Sequence[int], dtype: torch.dtype = torch.uint8
    ) -> Tensor | None:
        """Memory for the frames of ``rows``, that of the batch before if it may be reused; else None."""
        if not self._reuse_memory:
            return None
        if self._frame_memory is None or len(self._frame_memory) < rows.numel():
            self._frame_memory = torch.empty(rows.numel(), *frame_shape, dtype=dtype)
        return self._frame_memory[: rows.numel()]

    def set_beta(self, beta: float) -> None:
        """Set the exponent of the importance weights."""
        self._sampler.set_beta(beta)

    def sampling_state(self) -> dict[str, Any]:
        """Priorities, exponents and random state: all but the rows, for who can restore those in another way."""
        return self._sampler.state_dict()

    def load_sampling_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`sampling_state` into a buffer that holds the same rows."""
        self._sampler.load_state_dict(state)

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state in memory; :meth:`dumps` suits large buffers."""
        return buffer_state(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`; the generator object stays the same.

        Raises:
            ValueError: if the state is of another shape, or its rows have other keys than those of this buffer.
        """
        load_buffer_state(self, state_dict)

    def dumps(self, path: str | Path) -> None:
        """Save stored rows, priorities, ring heads and the generator's state to a folder, for :meth:`loads`.

        Not atomic: write to a fresh folder and rename it where a crash must not cost the snapshot before.
        """
        save_buffer(self, path)

    def loads(self, path: str | Path) -> None:
        """Restore what :meth:`dumps` saved into a buffer of the same capacity and environments.

        Raises:
            ValueError: as :meth:`load_state_dict`, or if nothing was saved there.
        """
        load_buffer(self, path)


def _first_of_each(env: Tensor, num_envs: int) -> Tensor:
    """Return a mask of the first occurrence of every environment in ``env [n]``."""
    order = torch.arange(env.numel())
    first = torch.full((num_envs,), env.numel()).scatter_reduce_(0, env, order, "amin")
    return first[env] == order
