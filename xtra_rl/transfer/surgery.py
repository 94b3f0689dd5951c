"""Gradient surgery: conflicts between tasks are taken out of the gradients themselves, at every training step.

Every changed gradient is a combination of the tasks' gradients, so all of it happens on their dot products: a step
costs its backward passes, one for each task, and M x M numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xtra_rl.transfer.weighting import TaskWeighting


class _Surgery(TaskWeighting):
    """Changes each task's gradient in view of all others', in random order; the target task is one of them.

    Args:
        tasks: names of the cross tasks.
        window: training steps over which ``mean_cosines`` averages.
        seed: of the order in which conflicts are dealt with.
    """

    def __init__(self, tasks: Sequence[str], *, window: int = 100, seed: int = 0) -> None:
        if window < 1:
            raise ValueError(f"window is {window}; expected at least 1 training step")
        super().__init__(tasks)
        self.window = window
        self._generator = torch.Generator().manual_seed(seed)
        self._before: dict[str, Any] | None = None

    def combine(self, coefficients: Tensor, gram: Tensor) -> Tensor:
        """Factors of the original gradients, ``[M]``, after each was changed (:meth:`TaskWeighting.combine`)."""
        dots = gram.detach().double().cpu()
        if not bool(dots.isfinite().all()):
            return coefficients
        self._before = self._random()
        tasks = [i for i in range(len(dots)) if dots[i, i] > 0]
        mixing = torch.eye(len(dots), dtype=torch.float64)
        for task in tasks:
            others = [i for i in tasks if i != task]
            for place in torch.randperm(len(others), generator=self._generator).tolist():
                mixing[task, others[place]] += self._change(task, others[place], mixing[task], dots)
        return (coefficients.double().cpu() @ mixing).to(coefficients)

    def _change(self, task: int, other: int, mix: Tensor, dots: Tensor) -> float:
        """How much of ``other``'s original gradient is added to ``task``'s, which is ``mix [M]`` of all by now."""
        raise NotImplementedError

    def observe(self, cosines: Mapping[str, float | Tensor]) -> None:
        """Count the cosines of a step that was taken (:meth:`TaskWeighting.observe`)."""
        super().observe(cosines)
        self._before = None

    def step(self) -> None:
        """Count one training step; every ``window`` steps a new mean of cosines begins.

        A step that the learner left out is not observed: random state and moving averages are then those before it.
        """
        super().step()
        if self._before is not None:
            self._restore(self._before)
            self._before = None
        if self.steps % self.window == 0:
            self._observations = dict.fromkeys(self.tasks, 0)

    def _random(self) -> dict[str, Any]:
        """What :meth:`combine` moves."""
        return {"generator": self._generator.get_state()}

    def _restore(self, state: Mapping[str, Any]) -> None:
        self._generator.set_state(state["generator"])

    def state_dict(self) -> dict[str, Any]:
        """Counters, cosines, the random state and moving averages, if there are any."""
        return super().state_dict() | self._random()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`.

        Raises:
            ValueError: if the state is of other tasks.
        """
        super().load_state_dict(state)
        self._restore(state)


class PCGrad(_Surgery):
    r"""A gradient that opposes another one loses its share along it (Yu et al., arXiv 2001.06782, algorithm 1).

    .. math:: g_i \leftarrow g_i - \frac{g_i \cdot g_j}{\lVert g_j \rVert^2} g_j \quad\text{if } g_i \cdot g_j < 0

    for all other tasks j in random order, each against the original :math:`g_j`.

    Args:
        tasks: names of the cross tasks.
        window: training steps over which ``mean_cosines`` averages.
        seed: of the order.

    Raises:
        ValueError: if ``window`` is below 1.

    Example:
        (1, 0) and (-1, 1) become (0.5, 0.5) and (0, 1):

        >>> PCGrad(["phoenix"]).combine(torch.ones(2), torch.tensor([[1.0, -1.0], [-1.0, 2.0]]))
        tensor([2.0000, 1.5000])
    """

    def _change(self, task: int, other: int, mix: Tensor, dots: Tensor) -> float:
        dot = float(mix @ dots[:, other])
        return -min(dot, 0.0) / float(dots[other, other])


class GradVac(_Surgery):
    r"""Gradient Vaccine: a pair whose cosine is below its usual one is turned to it (Wang et al., arXiv 2010.05874).

    .. math:: g_i \leftarrow g_i + \frac{\lVert g_i\rVert\,(\hat\phi\sqrt{1-\phi^2} - \phi\sqrt{1-\hat\phi^2})}
              {\lVert g_j\rVert\sqrt{1-\hat\phi^2}}\, g_j \quad\text{if } \phi < \hat\phi

    where :math:`\phi` is the cosine of :math:`g_i` and :math:`g_j`, :math:`\hat\phi` its moving average, 0 at first.
    PCGrad is the case :math:`\hat\phi = 0`. The paper does this for each layer apart; here it is done for the whole
    model, as the task weights are.

    Args:
        tasks: names of the cross tasks.
        decay: weight of a new cosine in the moving average; 0.01 as published.
        window: training steps over which ``mean_cosines`` averages.
        seed: of the order.

    Raises:
        ValueError: if ``decay`` is not between 0 and 1, or ``window`` below 1.

    Example:
        A first conflict is taken out as PCGrad does it, for the usual cosine is 0 at first:

        >>> GradVac(["phoenix"]).combine(torch.ones(2), torch.tensor([[1.0, -1.0], [-1.0, 2.0]]))
        tensor([2.0000, 1.5000])
    """

    def __init__(
        self, tasks: Sequence[str], *, decay: float = 0.01, window: int = 100, seed: int = 0
    ) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay is {decay}; expected a number from 0 to 1")
        super().__init__(tasks, window=window, seed=seed)
        self.decay = decay
        self._usual = torch.zeros(len(self.tasks) + 1, len(self.tasks) + 1, dtype=torch.float64)

    def _change(self, task: int, other: int, mix: Tensor, dots: Tensor) -> float:
        size, other_size = float(mix @ dots @ mix) ** 0.5, float(dots[other, other]) ** 0.5
        if size == 0:
            return 0.0
        cosine = float(mix @ dots[:, other]) / (size * other_size)
        cosine = min(max(cosine, -1.0), 1.0)
        usual = min(float(self._usual[task, other]), 1 - 1e-6)
        self._usual[task, other] += self.decay * (cosine - self._usual[task, other])
        if cosine >= usual:
            return 0.0
        sine, usual_sine = (1 - cosine**2) ** 0.5, (1 - usual**2) ** 0.5
        return size * (usual * sine - cosine * usual_sine) / (other_size * usual_sine)

    def _random(self) -> dict[str, Any]:
        return super()._random() | {"usual": self._usual.clone()}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self._usual = state["usual"].clone()
