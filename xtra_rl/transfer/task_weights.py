"""Task weights: how much each cross task counts while the agent learns the target task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor


class TaskWeightScheduler:
    """Weights from the agreement of gradients (XTRA, arXiv 2210.10763, section 3.2 and appendix B).

    Training runs in cycles. During a short window at the start of each cycle, every step reports the cosine between
    each cross task's gradient and the target task's; a cosine above the threshold is a hit. When the window ends the
    share of hits becomes the task's weight and holds until the next window ends. Until the first window has ended
    every weight is 1.

    Args:
        tasks: names of the cross tasks.
        start: training step of the first window.
        cycle: steps from one window's start to the next one's.
        window: steps of a window.
        threshold: cosine above which a step is a hit; 0.1 is the released code's, the paper does not print it.
        estimator: ``"fraction"``, hits / observations as the paper writes, or ``"official"``, the released code's
            ``round((1 + hits) / (1 + observations), 2)``.

    Raises:
        ValueError: if the window does not fit the cycle, a number is not positive or ``estimator`` is unknown.

    Example:
        >>> scheduler = TaskWeightScheduler(["phoenix"], start=0, cycle=10, window=4, estimator="official")
        >>> for cosine in (0.3, 0.2, 0.05, 0.4):
        ...     scheduler.observe({"phoenix": cosine})
        ...     scheduler.step()
        >>> scheduler.weights
        {'phoenix': 0.8}
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        start: int = 10_000,
        cycle: int = 5_000,
        window: int = 500,
        threshold: float = 0.1,
        estimator: Literal["fraction", "official"] = "fraction",
    ) -> None:
        if start < 0 or window < 1 or cycle < window:
            raise ValueError(
                f"start={start}, cycle={cycle}, window={window}: expected start >= 0, window >= 1 and cycle >= window"
            )
        if estimator not in ("fraction", "official"):
            raise ValueError(f"estimator is {estimator!r}; expected 'fraction' or 'official'")
        self.tasks = tuple(tasks)
        self.start = start
        self.cycle = cycle
        self.window = window
        self.threshold = threshold
        self.estimator = estimator
        self.steps = 0
        self._weights = dict.fromkeys(self.tasks, 1.0)
        self._hits = dict.fromkeys(self.tasks, 0)
        self._observations = dict.fromkeys(self.tasks, 0)
        self._mean_cosines: dict[str, float] = {}

    @property
    def weights(self) -> dict[str, float]:
        """Current weight of each cross task, between 0 and 1."""
        return dict(self._weights)

    @property
    def mean_cosines(self) -> dict[str, float]:
        """Mean cosine of each cross task in the open window, or in the last one; empty before the first."""
        return dict(self._mean_cosines)

    @property
    def measuring(self) -> bool:
        """Whether the coming training step lies in a window, i.e. should report cosines."""
        return self.steps >= self.start and (self.steps - self.start) % self.cycle < self.window

    def observe(self, cosines: Mapping[str, float | Tensor]) -> None:
        """Count one step's cosines; a task missing from the mapping was not in the batch and is not counted.

        Raises:
            ValueError: for a task that the scheduler does not know.
        """
        for task, cosine in cosines.items():
            if task not in self._hits:
                raise ValueError(
                    f"task {task!r} has no weight; the cross tasks are {', '.join(self.tasks) or 'none'}"
                )
            count, cosine = self._observations[task], float(cosine)
            # The first observation of a window starts a new mean.
            mean = self._mean_cosines[task] if count else 0.0
            self._mean_cosines[task] = mean + (cosine - mean) / (count + 1)
            self._observations[task] += 1
            self._hits[task] += int(cosine > self.threshold)

    def step(self) -> None:
        """Count one training step; at the end of a window turn the counts into weights."""
        self.steps += 1
        since = self.steps - self.start
        if since > 0 and since % self.cycle == self.window % self.cycle:
            self._close_window()

    def _close_window(self) -> None:
        for task in self.tasks:
            hits, observations = self._hits[task], self._observations[task]
            if observations:
                official = round((1 + hits) / (1 + observations), 2)
                self._weights[task] = official if self.estimator == "official" else hits / observations
            self._hits[task] = self._observations[task] = 0

    def state_dict(self) -> dict[str, Any]:
        """Counters and weights."""
        return {
            "steps": self.steps,
            "weights": dict(self._weights),
            "hits": dict(self._hits),
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
        self._hits = {task: int(state["hits"][task]) for task in self.tasks}
        self._observations = {task: int(state["observations"][task]) for task in self.tasks}
        self._mean_cosines = {task: float(mean) for task, mean in state["mean_cosines"].items()}


def task_coefficients(
    weights: Tensor, counts: Tensor, *, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """Factor of each task's mean loss in the total.

    Args:
        weights: ``[M]``, 1 for the target task.
        counts: samples of each task in the batch, ``[M]``.
        reduction: ``"sum"``, target plus weighted tasks (XTRA eq. 1), or ``"mean"`` over all samples of the joint
            batch, as the released code does: the target's share of the gradient is then its share of the batch.

    Returns:
        ``[M]``.

    Raises:
        ValueError: if ``reduction`` is unknown.

    Example:
        >>> task_coefficients(torch.tensor([1.0, 0.5]), torch.tensor([256, 256]), reduction="mean")
        tensor([0.5000, 0.2500])
    """
    if reduction == "sum":
        return weights * (counts > 0)
    if reduction == "mean":
        return weights * counts / counts.sum()
    raise ValueError(f"reduction is {reduction!r}; expected 'sum' or 'mean'")


def sample_weights(task_id: Tensor, weights: Tensor, *, reduction: Literal["sum", "mean"] = "sum") -> Tensor:
    """Weight of each sample, ``[B]``, such that the mean over the batch is the total of :func:`task_coefficients`.

    Args:
        task_id: ``[B]`` int64.
        weights: ``[M]``.
        reduction: as in :func:`task_coefficients`.
    """
    counts = torch.bincount(task_id, minlength=weights.numel())
    coefficients = task_coefficients(weights, counts, reduction=reduction)
    return (coefficients * task_id.numel() / counts.clamp(min=1))[task_id]
