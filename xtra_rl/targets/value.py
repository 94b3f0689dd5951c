"""Value and reward targets of an unroll, as pure functions of what a window of a trajectory holds.

A window has a root at position 0 and ``W = K + n`` transitions after it; ``reward[:, j]`` follows the action taken at
position ``j``. A transition that the trajectory does not have is masked, and its reward is 0.
"""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor


def clip_reward(reward: Tensor) -> Tensor:
    """Sign of a reward, as Atari agents learn it. NaN stays NaN: ``torch.sign`` would hide it as 0.

    Example:
        >>> clip_reward(torch.tensor([30.0, -0.5, 0.0, float("nan")]))
        tensor([ 1., -1.,  0., nan])
    """
    return torch.where(reward.isnan(), reward, reward.sign())


def td_steps_by_age(age: Tensor, td_steps: int, decay_interval: int | None) -> Tensor:
    """Bootstrap horizon of each sample: older data bootstraps earlier, down to one step.

    EfficientZero section 4.3 (off-policy correction): ``n = clip(td_steps - age // interval, 1, td_steps)``.

    Args:
        age: transitions received since the root row was, ``[B]``.
        td_steps: n of fresh data.
        decay_interval: transitions per step taken off, 30,000 as published; ``None`` switches the correction off.

    Example:
        >>> td_steps_by_age(torch.tensor([0, 29_999, 30_000, 95_000, 999_999]), 5, 30_000)
        tensor([5, 5, 4, 2, 1])
    """
    if decay_interval is None:
        return torch.full_like(age, td_steps)
    return (td_steps - age // decay_interval).clamp(1, td_steps)


def absorbing_mask(terminated: Tensor, unroll_steps: int) -> Tensor:
    """``[B, K+1]`` bool: positions reached by a terminating action, and all later ones.

    Example:
        >>> absorbing_mask(torch.tensor([[False, True, False, False]]), unroll_steps=3)
        tensor([[False, False,  True,  True]])
    """
    ended = terminated[:, :unroll_steps].cummax(1).values if unroll_steps else terminated[:, :0]
    return torch.cat([torch.zeros_like(terminated[:, :1]), ended], 1)


def task_ids(windows: TensorDictBase) -> Tensor:
    """Which task each window is of, ``[B]`` int64; those of a single buffer do not say, and are of one."""
    return windows.get("task_id", torch.zeros_like(windows["index"]))


def bootstrap_positions(
    transition_mask: Tensor, terminated: Tensor, *, td_steps: Tensor, unroll_steps: int
) -> tuple[Tensor, Tensor]:
    """Where each position of the unroll bootstraps: ``k + min(n, transitions that exist after k)``.

    Args:
        transition_mask: as in :func:`n_step_values`.
        terminated: as there.
        td_steps: as there.
        unroll_steps: as there.

    Returns:
        the positions ``[B, K+1]`` int64, and ``[B, K+1]`` bool: a termination lies before it, so nothing is added.

    Raises:
        ValueError: if the window is too short for ``unroll_steps`` and ``td_steps``; on a GPU, where a look at
            ``td_steps`` would wait for it, for one of them.
    """
    positions, width = unroll_steps + 1, transition_mask.shape[1]
    longest = int(td_steps.max()) if td_steps.device.type == "cpu" and len(td_steps) else 1
    if width < unroll_steps + longest:
        raise ValueError(
            f"the window has {width} transitions; expected at least unroll_steps + td_steps ="
            f" {unroll_steps} + {longest}"
        )
    steps = td_steps.view(-1, 1)
    used = torch.zeros(transition_mask.shape[0], positions, dtype=torch.int64, device=transition_mask.device)
    ended = torch.zeros_like(used, dtype=torch.bool)
    for j in range(width - unroll_steps):
        inside = transition_mask[:, j : j + positions] & (j < steps)
        used = used + inside
        ended = ended | (inside & terminated[:, j : j + positions])
    return torch.arange(positions, device=used.device) + used, ended


def n_step_values(
    reward: Tensor,
    bootstrap_value: Tensor,
    transition_mask: Tensor,
    terminated: Tensor,
    *,
    td_steps: Tensor,
    unroll_steps: int,
    discount: float,
) -> tuple[Tensor, Tensor]:
    r"""Discounted n-step returns at every position of an unroll, bootstrapped from a later value.

    .. math:: z_k = \sum_{i<m} \gamma^i r_{k+i} + \gamma^m v_{k+m}

    with ``m = min(n, transitions that exist after k)``: the sum is shorter at a truncation or at the newest row, and
    still bootstraps there. Nothing is added after a termination, and the states that follow one are absorbing: value 0.
    MuZero (arXiv 1911.08265) appendix G; that truncation bootstraps is unlike the official code
    (reads every block end as a terminal).

    Args:
        reward: as used for learning, i.e. clipped where the protocol clips, ``[B, W]``.
        bootstrap_value: value of the state at each position, ``[B, W+1]``.
        transition_mask: the transition exists, ``[B, W]`` bool.
        terminated: it ended the trajectory for good, ``[B, W]`` bool.
        td_steps: n of each sample, ``[B]`` int64; ``W`` must be at least ``K + max(n)``.
        unroll_steps: K.
        discount: per env step.

    Returns:
        targets ``[B, K+1]`` and their mask ``[B, K+1]`` bool: True for positions with a transition, and absorbing ones.

    Raises:
        ValueError: if the window is too short for ``unroll_steps`` and ``td_steps``; on a GPU, where a look at
            ``td_steps`` would wait for it, for one step of them.

    Example:
        >>> full, never = torch.ones(1, 3, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool)
        >>> n_step_values(torch.ones(1, 3), torch.full((1, 4), 8.0), full, never,
        ...               td_steps=torch.tensor([2]), unroll_steps=1, discount=0.5)[0]
        tensor([[3.5000, 3.5000]])
    """
    positions, width = unroll_steps + 1, reward.shape[1]
    if bootstrap_value.shape[1] != width + 1:
        raise ValueError(
            f"reward has {width} steps and bootstrap_value {bootstrap_value.shape[1]} positions; expected one more"
        )
    index, ended = bootstrap_positions(
        transition_mask, terminated, td_steps=td_steps, unroll_steps=unroll_steps
    )
    used = index - torch.arange(positions, device=reward.device)
    total = torch.zeros(reward.shape[0], positions, device=reward.device)
    for j in range(width - unroll_steps):
        total = total + torch.where(j < used, discount**j * reward[:, j : j + positions], 0.0)
    bootstrap = bootstrap_value.gather(1, index) * discount ** used.to(total.dtype)
    total = total + torch.where(ended, 0.0, bootstrap)
    absorbing = absorbing_mask(terminated, unroll_steps)
    mask = (used > 0) | absorbing
    return torch.where(mask & ~absorbing, total, 0.0), mask


def reward_targets(
    reward: Tensor,
    transition_mask: Tensor,
    terminated: Tensor,
    *,
    unroll_steps: int,
    value_prefix_horizon: int | None,
) -> tuple[Tensor, Tensor]:
    """Targets of the reward head: value prefix, or each reward on its own.

    The prefix is the undiscounted sum of rewards since the root, restarted every ``value_prefix_horizon`` steps
    (EfficientZero section 4.2). Past a termination rewards are 0 and still trained; past the end of the data they are
    masked.

    Args:
        reward: as in :func:`n_step_values`.
        transition_mask: as there.
        terminated: as there.
        unroll_steps: K.
        value_prefix_horizon: ``None`` for single rewards.

    Returns:
        targets ``[B, K]`` and mask ``[B, K]`` bool.

    Example:
        >>> full, never = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, 4, dtype=torch.bool)
        >>> reward_targets(torch.tensor([[1.0, 0, 1, 1]]), full, never, unroll_steps=4, value_prefix_horizon=3)[0]
        tensor([[1., 1., 2., 1.]])
    """
    mask = transition_mask[:, :unroll_steps]
    target = torch.where(mask, reward[:, :unroll_steps], 0.0)
    if value_prefix_horizon is not None:
        blocks = [block.cumsum(1) for block in target.split(value_prefix_horizon, 1)]
        target = torch.cat(blocks, 1) if blocks else target
    return target, mask | absorbing_mask(terminated, unroll_steps)[:, :-1]
