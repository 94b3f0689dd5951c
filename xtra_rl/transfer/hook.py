"""The task weights as a hook of TorchRL's ``Trainer``."""

from __future__ import annotations

from typing import Any

from torchrl.trainers.trainers import Trainer, TrainerHookBase

from xtra_rl.transfer.weighting import TaskWeighting


class TaskWeightSchedulerHook(TrainerHookBase):
    """Steps a :class:`~xtra_rl.transfer.weighting.TaskWeighting` after every optimisation, logs its weights.

    The cosines are observed where the gradients are, in the optimisation step; the hook only keeps time. It is a thin
    adapter: in a loop of your own call ``scheduler.observe`` and ``scheduler.step`` as for a learning-rate schedule.

    Args:
        scheduler: the scheduler to step.

    Example:
        ``hook.register(trainer)`` calls it after each step of the optimiser; by hand:

        >>> from xtra_rl.transfer import TaskWeightScheduler
        >>> hook = TaskWeightSchedulerHook(TaskWeightScheduler(["phoenix"], start=0, cycle=2, window=1))
        >>> hook.scheduler.observe({"phoenix": -0.3})
        >>> hook()
        >>> hook.log()["task_weight/phoenix"]
        0.0
    """

    def __init__(self, scheduler: TaskWeighting) -> None:
        self.scheduler = scheduler

    def __call__(self) -> None:
        self.scheduler.step()

    def log(self, batch: Any = None) -> dict[str, Any]:
        """``task_weight/<task>`` for the trainer's log."""
        return {f"task_weight/{task}": weight for task, weight in self.scheduler.weights.items()} | {
            "log_pbar": False
        }

    def register(self, trainer: Trainer, name: str = "task_weights") -> None:
        """Attach to a trainer: ``post_optim`` and ``post_optim_log``."""
        trainer.register_op("post_optim", self)
        trainer.register_op("post_optim_log", self.log)
        trainer.register_module(name, self)

    def state_dict(self) -> dict[str, Any]:
        """The scheduler's."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.scheduler.load_state_dict(state_dict)
