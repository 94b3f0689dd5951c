"""Where rows of several environments go: one ring of consecutive rows for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchrl.data.replay_buffers.writers import Writer


class Placement(NamedTuple):
    """What :class:`ColumnWriter` decided about ``n`` rows."""

    rows: Tensor
    """``[n]`` storage rows they go to."""
    step: Tensor
    """``[n]`` int32 position in their trajectories."""
    completed: Tensor
    """``[m]`` storage rows whose successor has now arrived: usable transitions."""


class ColumnWriter(Writer):
    """Keep, for each environment, a ring of ``ring_size`` consecutive rows and the state of its newest
    trajectory.

    Only the bookkeeping lives here; the buffer copies the data and tells its sampler.

    Args:
        num_columns: number of environments.
        ring_size: rows of one ring, at least 2 (a transition and its successor).
    """

    def __init__(self, num_columns: int, ring_size: int) -> None:
        super().__init__()
        self.num_columns = num_columns
        self.ring_size = ring_size
        # Added to stamps where they become keys, since stamps begin anew with other contents: it lies above all that
        # were given before. Not saved, as keys are not.
        self.stamp_offset = self.total_added = 0
        self._empty()

    def _forget_stamps(self) -> None:
        if self.total_added:  # before the first transition there was nothing to name
            self.stamp_offset += self.total_added + 1

    def _empty(self, empty_write_count: bool = True) -> None:
        self._forget_stamps()
        self.written = torch.zeros(self.num_columns, dtype=torch.long)
        self.total_added = 0
        self._last_step = torch.zeros(self.num_columns, dtype=torch.int32)
        # The newest row has an action, so a successor is expected.
        self._running = torch.zeros(self.num_columns, dtype=torch.bool)
        # That action ended the trajectory, so the successor must be its final observation.
        self._ended = torch.zeros(self.num_columns, dtype=torch.bool)

    @property
    def num_rows(self) -> int:
        """Rows that are stored now."""
        return int(self.written.clamp(max=self.ring_size).sum())

    @property
    def _write_count(self) -> int:
        return int(self.written.sum())

    def place(self, env: Tensor, has_action: Tensor, ended: Tensor, step: Tensor | None) -> Placement:
        """Place one row for each of the distinct environments ``env [n]``.

        Args:
            env: ``[n]`` int64, each at most once.
            has_action: ``[n]`` bool; False marks the final observation of a trajectory.
            ended: ``[n]`` bool; the row's action ended the trajectory.
            step: ``[n]`` position in the trajectory, or None to count here.

        Raises:
            ValueError: if a row neither continues nor starts a trajectory.
        """
        running = self._running[env]
        expected = torch.where(running, self._last_step[env] + 1, 0).int()
        step = expected if step is None else step.int()
        _check_order(env, step, expected, has_action, self._ended[env])
        base = env * self.ring_size
        index = base + self.written[env] % self.ring_size
        before = base + (self.written[env] - 1) % self.ring_size
        placement = Placement(index, step, before[step > 0])
        self.total_added += int(has_action.sum())
        self.written[env] += 1
        self._last_step[env] = step
        self._running[env] = has_action
        self._ended[env] = ended & has_action
        return placement

    def place_trajectory(self, env: int, length: int) -> Placement:
        """Place the ``length`` rows of one whole trajectory, the last of them without action.

        Raises:
            ValueError: if it does not fit the ring or the column is in the middle of another trajectory.
        """
        if length > self.ring_size:
            raise ValueError(
                f"a trajectory of {length} rows does not fit a column of {self.ring_size} rows; "
                "raise capacity or use fewer num_envs"
            )
        if bool(self._running[env]):
            raise ValueError(
                f"env_index={env} holds a trajectory that is still running; append its final row first"
            )
        offset = torch.arange(length)
        index = env * self.ring_size + (self.written[env] + offset) % self.ring_size
        self.total_added += length - 1
        self.written[env] += length
        return Placement(index, offset.int(), index[:-1])

    def stamps(self, has_action: Tensor) -> Tensor:
        """Return, for rows ``[n]`` about to be placed in this order, the transitions received before each."""
        return self.total_added + has_action.long().cumsum(0) - has_action.long()

    def add(self, data: Any) -> int:
        """Refuse: rows are written through the buffer.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("call TrajectoryReplayBuffer.append(rows, env_index) to write rows")

    def extend(self, data: Any) -> Tensor:
        """Refuse: rows are written through the buffer.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("call TrajectoryReplayBuffer.append(rows, env_index) to write rows")

    def state_dict(self) -> dict[str, Any]:
        """Return the heads of the rings and the state of the newest trajectories."""
        return {
            "written": self.written.clone(),
            "last_step": self._last_step.clone(),
            "running": self._running.clone(),
            "ended": self._ended.clone(),
            "sizes": torch.tensor([self.ring_size, self.total_added]),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            ValueError: if the state is of other rings.
        """
        ring_size, total_added = state_dict["sizes"].tolist()
        columns = state_dict["written"].numel()
        if (columns, ring_size) != (self.num_columns, self.ring_size):
            raise ValueError(
                f"saved buffer has num_envs={columns} columns of {ring_size} rows, this one num_envs="
                f"{self.num_columns} of {self.ring_size}; build it with the saved capacity and num_envs"
            )
        self._forget_stamps()
        self.total_added = total_added
        self.written = state_dict["written"].clone()
        self._last_step = state_dict["last_step"].clone()
        self._running = state_dict["running"].clone()
        self._ended = state_dict["ended"].clone()

    def dumps(self, path: str | Path) -> None:
        """Write :meth:`state_dict` to ``path/writer.safetensors``."""
        Path(path).mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), Path(path) / "writer.safetensors")

    def loads(self, path: str | Path) -> None:
        """Read what :meth:`dumps` wrote."""
        self.load_state_dict(load_file(Path(path) / "writer.safetensors"))


def _check_order(env: Tensor, step: Tensor, expected: Tensor, has_action: Tensor, ended: Tensor) -> None:
    restarts = step == 0
    bad = ~(restarts | (step == expected)) | (ended & (restarts | has_action))
    if not bool(bad.any()):
        return
    at = int(bad.nonzero()[0])
    if bool(ended[at]):
        raise ValueError(
            f"env_index={int(env[at])}: the previous row ended its trajectory, so the next one must be its "
            "final observation (has_action=False, step one higher); append that row before the new trajectory"
        )
    raise ValueError(
        f"env_index={int(env[at])}: step={int(step[at])} must be {int(expected[at])} to continue the "
        "trajectory or 0 to start a new one"
    )
