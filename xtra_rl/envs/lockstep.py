"""Games played side by side until each has ended once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torchrl.envs.utils import ExplorationType

Policy = Callable[[TensorDictBase], TensorDictBase]
"""Reads observations ``[n]`` and writes ``action``: a planner, a module, a function."""

EXPLORATION = {"greedy": ExplorationType.DETERMINISTIC, "sampled": ExplorationType.RANDOM}
"""TorchRL's exploration type by the mode in which games are played."""


def act_unfinished(policy: Policy, td: TensorDictBase, active: torch.Tensor) -> TensorDictBase:
    """Ask the policy only for the unfinished episodes; a search for the others would be wasted.

    A finished environment repeats the row, and so the action, of the first unfinished one: any legal action
    will do, what comes of it is not used.

    Args:
        policy: reads and writes tensordicts ``[n]``.
        td: observations ``[N]``.
        active: ``[N]`` bool, which episodes are unfinished; at least one.

    Returns:
        what the policy wrote, ``[N]``.
    """
    if bool(active.all()):
        return policy(td)
    rows = active.nonzero().squeeze(-1)
    source = torch.zeros(len(active), dtype=torch.int64)
    source[rows] = torch.arange(len(rows))
    return policy(td[rows])[source]
