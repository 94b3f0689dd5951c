"""Training batches that mix tasks: exact quotas of windows, each task with its own targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from tensordict import TensorDict, TensorDictBase

from xtra_rl.data.multitask import MultiTaskReplayBuffer


class Targets(Protocol):
    """Windows to a training batch: :class:`~xtra_rl.targets.ReanalyzeTargets`, ``TeacherTargets`` or your own.

    ``bootstrap_steps`` is how many transitions a window needs past the unroll, ``bootstrap_pixels`` whether it needs
    their frames too.
    """

    unroll_steps: int
    frame_stack: int
    bootstrap_pixels: bool

    @property
    def bootstrap_steps(self) -> int: ...

    def __call__(self, windows: TensorDictBase) -> TensorDict: ...


class BatchSource:
    """Draws windows of every task, turns them into targets and joins them.

    Args:
        buffers: replay of all tasks with their quotas.
        targets: of each task, by name.
        device: where targets are computed and training happens.

    Raises:
        ValueError: if a task has no targets, or they disagree on ``unroll_steps`` or ``frame_stack``.
    """

    def __init__(
        self,
        buffers: MultiTaskReplayBuffer,
        targets: Mapping[str, Targets],
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        missing = [task for task in buffers.tasks if task not in targets]
        if missing:
            raise ValueError(
                f"no targets for task {missing[0]!r}; targets were given for {', '.join(targets)}"
            )
        shapes = {(targets[task].unroll_steps, targets[task].frame_stack) for task in buffers.tasks}
        if len(shapes) > 1:
            raise ValueError(
                f"tasks disagree on (unroll_steps, frame_stack): {sorted(shapes)}; make them equal"
            )
        self.buffers = buffers
        self.targets = dict(targets)
        self.unroll_steps, self.frame_stack = shapes.pop()
        self.bootstrap_steps = max(targets[task].bootstrap_steps for task in buffers.tasks)
        self.device = torch.device(device)

    def draw(self) -> dict[str, TensorDict]:
        """Read the windows of the next batch, by task."""
        return self.buffers.sample_windows(
            unroll_steps=self.unroll_steps,
            bootstrap_steps=self.bootstrap_steps,
            frame_stack=self.frame_stack,
            bootstrap_pixels={task: self.targets[task].bootstrap_pixels for task in self.buffers.tasks},
        )

    def build(self, windows: Mapping[str, TensorDict]) -> TensorDict:
        """Targets of drawn windows, joined to a batch ``[B]`` with tasks in the order of the buffers."""
        return torch.cat([self.targets[task](part.to(self.device)) for task, part in windows.items()])

    def sample(self) -> TensorDict:
        """Next batch ``[B]``: :meth:`draw`, then :meth:`build`."""
        return self.build(self.draw())

    def update_priority(self, batch: TensorDictBase) -> None:
        """Give the new priorities of a trained batch back to the buffers they came from."""
        self.buffers.update_priority(batch["task_id"].cpu(), batch["index"].cpu(), batch["td_error"].cpu())

    def set_beta(self, beta: float) -> None:
        """Exponent of the importance weights, annealed over training."""
        self.buffers.set_beta(beta)
