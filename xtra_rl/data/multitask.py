"""Batches with an exact number of windows from each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from xtra_rl.data.buffers import TrajectoryReplayBuffer
from xtra_rl.data.shard import BatchShard


def even_quotas(tasks: Sequence[str], batch_size: int) -> dict[str, int]:
    """Split ``batch_size`` evenly; the first tasks take the remainder, one each.

    Raises:
        ValueError: if there is no task, a name comes twice, or there are more tasks than samples.

    Example:
        >>> even_quotas(["carnival", "phoenix", "pooyan"], 256)
        {'carnival': 86, 'phoenix': 85, 'pooyan': 85}
    """
    if not tasks or len(set(tasks)) != len(tasks):
        raise ValueError(f"tasks={list(tasks)} must name at least one task and none twice")
    if len(tasks) > batch_size:
        raise ValueError(
            f"batch_size={batch_size} is too small for {len(tasks)} tasks; raise it to at least "
            f"{len(tasks)} or drop tasks"
        )
    share, rest = divmod(batch_size, len(tasks))
    return {task: share + (place < rest) for place, task in enumerate(tasks)}


class MultiTaskReplayBuffer:
    """Several :class:`TrajectoryReplayBuffer` sampled together, each with its own exact quota.

    Args:
        buffers: one buffer for each task; their order numbers the tasks from 0 (``task_id``).
        quotas: windows of each task in a batch, see :func:`even_quotas`; 0 leaves a task out.

    Raises:
        ValueError: if a quota is negative, all are 0, or the tasks differ from those of ``buffers``.

    Example:
        >>> buffers = {name: TrajectoryReplayBuffer(100, memmap=False) for name in ("alien", "amidar")}
        >>> MultiTaskReplayBuffer(buffers, {"alien": 256, "amidar": 64}).batch_size
        320
    """

    def __init__(self, buffers: Mapping[str, TrajectoryReplayBuffer], quotas: Mapping[str, int]) -> None:
        if not buffers:
            raise ValueError("buffers is empty; pass one TrajectoryReplayBuffer for each task")
        self.buffers = dict(buffers)
        self.set_quotas(quotas)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names in the order of their ids."""
        return tuple(self.buffers)

    @property
    def quotas(self) -> dict[str, int]:
        """Windows of each task in a batch."""
        return dict(self._quotas)

    @property
    def batch_size(self) -> int:
        """Windows in a batch over all tasks."""
        return sum(self._quotas.values())

    def set_quotas(self, quotas: Mapping[str, int]) -> None:
        """Replace the quotas.

        Raises:
            ValueError: as the constructor; the old quotas are then kept.
        """
        unknown = sorted(set(quotas) - set(self.buffers))
        missing = sorted(set(self.buffers) - set(quotas))
        if unknown or missing:
            raise ValueError(
                f"quotas name unknown tasks {unknown} and lack {missing}; the buffers are of "
                f"{list(self.buffers)}"
            )
        wrong = {task: quota for task, quota in quotas.items() if quota != int(quota) or quota < 0}
        if wrong or sum(quotas.values()) == 0:
            raise ValueError(
                f"quotas={dict(quotas)} must be whole numbers of at least 0 that do not sum to 0"
            )
        self._quotas = {task: int(quotas[task]) for task in self.buffers}

    def sample_windows(
        self,
        *,
        bootstrap_pixels: bool | Mapping[str, bool] = True,
        shard: BatchShard | None = None,
        **options: Any,
    ) -> dict[str, TensorDict]:
        """Sample each task's quota of windows.

        Args:
            bootstrap_pixels: one value for all tasks, or one for each that has a quota.
            shard: which of the windows to return.
            **options: ``unroll_steps``, ``bootstrap_steps`` and ``frame_stack`` of
                :meth:`TrajectoryReplayBuffer.sample_windows`.

        Returns:
            Windows ``[quota]``, or a shard's part, of each task with a quota above 0, with ``task_id`` int64 added.

        Raises:
            ValueError: if a task with a quota holds no transition.
        """
        chosen = {task: quota for task, quota in self._quotas.items() if quota}
        empty = [task for task in chosen if self.buffers[task].num_transitions == 0]
        if empty:
            raise ValueError(f"buffers of {empty} hold no transitions; fill them or set their quota to 0")
        batches = {}
        for task, quota in chosen.items():
            shown = bootstrap_pixels[task] if isinstance(bootstrap_pixels, Mapping) else bootstrap_pixels
            rows = slice(None) if shard is None else shard.rows(task)
            windows = self.buffers[task].sample_windows(quota, bootstrap_pixels=shown, rows=rows, **options)
            batches[task] = windows.set("task_id", torch.full((len(windows),), self.tasks.index(task)))
        return batches

    def update_priority(self, task_id: Tensor | int, index: Tensor, priority: Tensor) -> None:
        """Route priorities back to the buffers.

        Args:
            task_id: ``[B]`` or one number for all.
            index: ``[B]`` as sampled.
            priority: ``[B]`` raw priorities.

        Raises:
            ValueError: if a task id is out of range.
        """
        task_id = torch.as_tensor(task_id, device="cpu").expand(index.shape)
        index, priority = index.cpu(), priority.detach().cpu()
        for number in task_id.unique().tolist():
            if not 0 <= number < len(self.tasks):
                raise ValueError(
                    f"task_id={number} must lie in 0..{len(self.tasks) - 1}, the order of {self.tasks}"
                )
            of_task = task_id == number
            self.buffers[self.tasks[number]].update_priority(index[of_task], priority[of_task])

    def set_beta(self, beta: float) -> None:
        """Set the exponent of the importance weights of all buffers."""
        for buffer in self.buffers.values():
            buffer.set_beta(beta)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all buffers in memory; :meth:`dumps` suits large ones."""
        return {task: buffer.state_dict() for task, buffer in self.buffers.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        for task, buffer in self.buffers.items():
            buffer.load_state_dict(state_dict[task])

    def dumps(self, path: str | Path) -> None:
        """Save each buffer to its own folder below ``path``."""
        for task, buffer in self.buffers.items():
            buffer.dumps(Path(path) / task)

    def loads(self, path: str | Path) -> None:
        """Restore what :meth:`dumps` saved."""
        for task, buffer in self.buffers.items():
            buffer.loads(Path(path) / task)
