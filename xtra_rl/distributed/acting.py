"""Acting on one rank for all."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from xtra_rl.distributed.collectives import on_main


class SharedPlanner:
    """A planner that plans on the main rank and says there, to all ranks, what it found.

    Every rank then takes the same step in emulators of its own, which is far cheaper than the search, and so has the
    same replay without sending a frame.

    Args:
        planner: reads ``observation`` and ``action_mask``, writes ``action`` and, if it searches, ``("search", ...)``.

    Example:
        >>> from tensordict import TensorDict
        >>> from xtra_rl.evaluation.baselines import RandomPolicy
        >>> planner = SharedPlanner(RandomPolicy(torch.Generator().manual_seed(0)))
        >>> mask = torch.tensor([[False, True, False]])
        >>> planner(TensorDict({"action_mask": mask}, batch_size=[1]))["action"]
        tensor([1])
    """

    def __init__(self, planner: Any) -> None:
        self.planner = planner

    @torch.no_grad()
    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write what the main rank's planner found for ``tensordict [N]``."""

        def plan() -> dict[Any, Tensor]:
            planned = self.planner(tensordict.clone(recurse=False))
            new = planned.exclude(*tensordict.keys(True, True)).keys(True, True)
            return {key: planned[key].cpu() for key in new}

        for key, value in on_main(plan).items():
            tensordict.set(key, value.to(tensordict.device or "cpu"))
        return tensordict

    def set_train_step(self, train_step: int) -> None:
        """Move the planner's schedules."""
        self.planner.set_train_step(train_step)

    def rng_state(self) -> Tensor:
        """Random state of the planner, to be saved by the main rank."""
        return self.planner.rng_state()

    def set_rng_state(self, state: Tensor) -> None:
        """Restore :meth:`rng_state`."""
        self.planner.set_rng_state(state)
