"""Task weights: how much each cross task counts while the agent learns the target task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xtra_rl.data.shard import BatchShard
from xtra_rl.transfer.weighting import TaskWeighting


class Estimator(NamedTuple):
    """From the cosines of a window to a weight: ``credit(cosine, threshold, softness)`` of each is added up, and
    ``weight(credits, observations)`` is the result."""

    credit: Callable[[float, float, float], float]
    weight: Callable[[float, int], float]


def _hit(cosine: float, threshold: float, softness: float) -> float:
    return float(cosine > threshold)


def _soft_hit(cosine: float, threshold: float, softness: float) -> float:
    # The logistic function; as a tanh it cannot overflow.
    return 0.5 + 0.5 * math.tanh(0.5 * (cosine - threshold) / softness)


#: What ``TaskWeightScheduler(estimator=...)`` understands.
ESTIMATORS = {
    "fraction": Estimator(_hit, lambda hits, count: hits / count),
    "official": Estimator(_hit, lambda hits, count: round((1 + hits) / (1 + count), 2)),
    "soft": Estimator(_soft_hit, lambda hits, count: hits / count),
    "constant": Estimator(_hit, lambda hits, count: 1.0),
}


class TaskWeightScheduler(TaskWeighting):
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
        estimator: ``"fraction"``, hits / observations as the paper writes; ``"official"``, the released code's
            ``round((1 + hits) / (1 + observations), 2)``; ``"soft"``, where a step is a hit by
            ``sigmoid((cosine - threshold) / softness)``, so that cosines near the threshold count in part;
            ``"constant"``, where cosines are measured and every weight stays 1.
        softness: width of the soft threshold; towards 0 it is ``"fraction"``.

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
        estimator: Literal["fraction", "official", "soft", "constant"] = "fraction",
        softness: float = 0.05,
    ) -> None:
        if start < 0 or window < 1 or cycle < window:
            raise ValueError(
                f"start={start}, cycle={cycle}, window={window}: expected start >= 0, window >= 1 and cycle >= window"
            )
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator is {estimator!r}; expected one of {', '.join(ESTIMATORS)}")
        if not softness > 0:
            raise ValueError(f"softness is {softness}; expected a positive number")
        super().__init__(tasks)
        self.start = start
        self.cycle = cycle
        self.window = window
        self.threshold = threshold
        self.softness = softness
        self.estimator = estimator
        self._credits = dict.fromkeys(self.tasks, 0.0)

    @property
    def measuring(self) -> bool:
        """Whether the coming training step lies in a window, i.e. should report cosines."""
        return self.steps >= self.start and (self.steps - self.start) % self.cycle < self.window

    def observe(self, cosines: Mapping[str, float | Tensor]) -> None:
        """Count one step's cosines; a task missing from the mapping was not in the batch and is not counted.

        Raises:
            ValueError: for a task that the scheduler does not know.
        """
        super().observe(cosines)
        for task, cosine in cosines.items():
            self._credits[task] += ESTIMATORS[self.estimator].credit(
                float(cosine), self.threshold, self.softness
            )

    def step(self) -> None:
        """Count one training step; at the end of a window turn the counts into weights."""
        super().step()
        since = self.steps - self.start
        if since > 0 and since % self.cycle == self.window % self.cycle:
            self._close_window()

    def _close_window(self) -> None:
        for task in self.tasks:
            if count := self._observations[task]:
                self._weights[task] = ESTIMATORS[self.estimator].weight(self._credits[task], count)
            self._credits[task], self._observations[task] = 0.0, 0

    def state_dict(self) -> dict[str, Any]:
        """Counters and weights."""
        return super().state_dict() | {"credits": dict(self._credits)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            ValueError: if the state is of other tasks.
        """
        super().load_state_dict(state)
        self._credits = {task: float(state["credits"][task]) for task in self.tasks}


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


def sample_weights(
    task_id: Tensor,
    weights: Tensor,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    shard: BatchShard | None = None,
) -> Tensor:
    """Weight of each sample, ``[B]``, such that the mean over the batch is the total of :func:`task_coefficients`.

    Args:
        task_id: ``[B]`` int64.
        weights: ``[M]``.
        reduction: as in :func:`task_coefficients`.
        shard: of the batch that other ranks share; the mean over ranks of the means over their samples is the total.

    Example:
        Two samples of the target and one of a task of weight 0.5, whose mean is 1 + 0.5:

        >>> sample_weights(torch.tensor([0, 0, 1]), torch.tensor([1.0, 0.5]))
        tensor([1.5000, 1.5000, 1.5000])
    """
    counts = torch.bincount(task_id, minlength=weights.numel())
    samples = task_id.numel()
    if shard is not None:
        counts, samples = shard.counts.to(task_id.device), samples * shard.size
    coefficients = task_coefficients(weights, counts, reduction=reduction)
    return (coefficients * samples / counts.clamp(min=1))[task_id]
