"""How a learner treats the gradients of several tasks: the interface, and what all ways of doing it share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor


class TaskWeighting:
    """Weights of cross tasks, and the combination of gradients; subclass it for a rule of your own.

    Before a training step a learner reads :attr:`measuring`. If it is false, one backward pass of the losses with
    :attr:`weights` is all. If it is true, the learner computes the gradient of each task apart, asks :meth:`combine`
    how to add them up, and reports their cosines to :meth:`observe`. Either way it calls :meth:`step` at the end.

    As it stands all weights are 1, gradients are added up, and every step is measured. A rule that remembers more than
    this class does extends :meth:`state_dict` and :meth:`load_state_dict`, or a run that was killed goes on otherwise.

    Args:
        tasks: names of the cross tasks, without the target task.

    Example:
        Gradients of cross tasks that oppose the target's are left out, step by step
        (Du et al., "Adapting auxiliary losses using gradient similarity", arXiv 1812.02224):

        >>> class LeaveOut(TaskWeighting):
        ...     def combine(self, coefficients, gram):
        ...         return coefficients * (gram[0] > 0)
        >>> LeaveOut(["phoenix"]).combine(torch.ones(2), torch.tensor([[4.0, -1.0], [-1.0, 2.0]]))
        tensor([1., 0.])
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.steps = 0
        self._weights = dict.fromkeys(self.tasks, 1.0)
        self._observations = dict.fromkeys(self.tasks, 0)
        self._mean_cosines: dict[str, float] = {}

    @property
    def weights(self) -> dict[str, float]:
        """Current weight of each cross task's loss, at least 0; of all of them, and not of the target's."""
        return dict(self._weights)

    @property
    def mean_cosines(self) -> dict[str, float]:
        """Mean cosine of each cross task over the steps that were measured; empty before the first.

        A rule with windows, such as :class:`~xtra_rl.transfer.TaskWeightScheduler`, begins anew with each.
        """
        return dict(self._mean_cosines)

    @property
    def measuring(self) -> bool:
        """Whether the coming training step needs every task's gradient: a backward pass for each task."""
        return True

    def combine(self, coefficients: Tensor, gram: Tensor) -> Tensor:
        """Factors of the tasks' gradients in the one that the optimiser gets.

        Args:
            coefficients: what the weighted total asks for, ``[M]``, the target task first.
            gram: dot products of the tasks' gradients, ``[M, M]``
                (:func:`~xtra_rl.transfer.gradients.gradient_gram`); that of a task which is not in the batch is 0.

        Returns:
            ``[M]``. Any combination of the gradients can be said this way, projections of one onto another included.
        """
        return coefficients

    def observe(self, cosines: Mapping[str, float | Tensor]) -> None:
        """Count one step's cosines; a task missing from the mapping was not in the batch and is not counted.

        Raises:
            ValueError: for a task that has no weight here.
        """
        for task, cosine in cosines.items():
            if task not in self._observations:
                raise ValueError(
                    f"task {task!r} has no weight; the cross tasks are {', '.join(self.tasks) or 'none'}"
                )
            count, cosine = self._observations[task], float(cosine)
            # The first observation of a window starts a new mean.
            mean = self._mean_cosines[task] if count else 0.0
            self._mean_cosines[task] = mean + (cosine - mean) / (count + 1)
            self._observations[task] += 1

    def step(self) -> None:
        """Count one training step."""
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Counters, weights and cosines."""
        return {
            "steps": self.steps,
            "weights": dict(self._weights),
            "observations": dict(self._observations),
            "mean_cosines": dict(self._mean_cosines),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            ValueError: if the state is of other tasks.
        """
        if set(state["weights"]) != set(self.tasks):
            raise ValueError(f"state holds tasks {sorted(state['weights'])}; expected {sorted(self.tasks)}")
        self.steps = int(state["steps"])
        self._weights = {task: float(state["weights"][task]) for task in self.tasks}
        self._observations = {task: int(state["observations"][task]) for task in self.tasks}
        self._mean_cosines = {task: float(mean) for task, mean in state["mean_cosines"].items()}
