"""Targets of a value-based agent: one n-step transition a window."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from xtra_rl.targets.behaviour import check_actions, check_mask
from xtra_rl.targets.value import clip_reward, task_ids


class NStepTargets:
    r"""Turn windows into n-step transitions: the root's stack and action, what came of it, and the stack n steps on.

    Rainbow (arXiv 1710.02298), as data-efficient Rainbow and CURL use it.

    .. math:: G = \sum_{i<m} \gamma^i r_i, \qquad m = \min(n, \text{transitions that exist})

    A target is :math:`G` plus ``bootstrap_discount`` times the value of ``bootstrap_observation``. That discount is
    :math:`\gamma^m`, and 0 where a termination (of the game, or in training of a life) lies before it. The sum is
    shorter at a truncation, and at the newest row of a game that still runs, and bootstraps there.

    Args:
        action_mask: legal actions of the task, ``[A]`` bool, on the device of the windows.
        td_steps: n, at least 1; 20 for data-efficient Rainbow.
        discount: per env step.
        clip_rewards: learn the signs of rewards, as published.
        frame_stack: F.

    Raises:
        ValueError: if ``action_mask`` is not a vector of bools with a legal action, or ``td_steps`` below 1.

    Example:
        >>> targets = NStepTargets(torch.tensor([True, True]), td_steps=3, discount=0.5, frame_stack=1)
        >>> windows = TensorDict({"pixels": torch.arange(4).view(1, 4, 1, 1, 1), "action": torch.tensor([[1, 0, 0]]),
        ...     "reward": torch.tensor([[0.0, 7.0, 0.0]]), "transition_mask": torch.tensor([[True, True, False]]),
        ...     "terminated": torch.zeros(1, 3, dtype=torch.bool), "priority_weight": torch.ones(1),
        ...     "index": torch.zeros(1), "task_id": torch.zeros(1)}, [1])
        >>> batch = targets(windows)
        >>> batch["return"], batch["bootstrap_discount"], batch["bootstrap_observation"].flatten()
        (tensor([0.5000]), tensor([0.2500]), tensor([2]))
    """

    unroll_steps = 0
    bootstrap_pixels = True

    def __init__(
        self,
        action_mask: Tensor,
        *,
        td_steps: int = 20,
        discount: float = 0.99,
        clip_rewards: bool = True,
        frame_stack: int = 4,
    ) -> None:
        check_mask(action_mask)
        if td_steps < 1:
            raise ValueError(f"td_steps is {td_steps}; expected at least 1")
        self.action_mask = action_mask
        self.td_steps = td_steps
        self.discount = discount
        self.clip_rewards = clip_rewards
        self.frame_stack = frame_stack

    @property
    def bootstrap_steps(self) -> int:
        """Transitions that a window needs: n."""
        return self.td_steps

    @torch.no_grad()
    def __call__(self, windows: TensorDictBase) -> TensorDict:
        """Batch ``[B]`` for :class:`~xtra_rl.objectives.CurlLoss`.

        Returns:
            ``pixels [B, F, C, H, W]`` of the root, ``action [B]``, ``action_mask [B, A]``, ``return [B]``,
            ``bootstrap_observation [B, F*C, H, W]``, ``bootstrap_discount [B]``, ``priority_weight``, ``index`` and
            ``task_id [B]``.

        Raises:
            ValueError: if the data holds an action that is illegal in the task, or windows are shorter than n.
        """
        if (width := windows["reward"].shape[1]) < self.td_steps:
            raise ValueError(f"the windows have {width} transitions; expected td_steps={self.td_steps}")
        # Beside tasks of longer returns windows are wider.
        reward, known, terminated = (
            windows[key][:, : self.td_steps] for key in ("reward", "transition_mask", "terminated")
        )
        pixels, action = windows["pixels"], windows["action"][:, 0]
        check_actions(action[known[:, 0]], self.action_mask)
        reward = clip_reward(reward) if self.clip_rewards else reward
        discounts = self.discount ** torch.arange(self.td_steps, device=reward.device, dtype=reward.dtype)
        steps = known.sum(1)
        ended = (terminated & known).any(1)
        return TensorDict(
            {
                "pixels": pixels[:, : self.frame_stack],
                "action": action,
                "action_mask": self.action_mask.expand(len(action), -1),
                "return": torch.where(known, reward * discounts, 0.0).sum(1),
                "bootstrap_observation": self._stacks_at(pixels, steps),
                "bootstrap_discount": torch.where(ended, 0.0, self.discount**steps),
                "priority_weight": windows["priority_weight"],
                "index": windows["index"],
                "task_id": task_ids(windows),
            },
            batch_size=windows.batch_size[:1],
        )

    def _stacks_at(self, pixels: Tensor, position: Tensor) -> Tensor:
        """Frame stacks ``[B, F*C, H, W]`` at ``position [B]`` of windows ``[B, F + n, C, H, W]``."""
        samples, frames = pixels.shape[:2]
        first = torch.arange(samples, device=pixels.device) * frames + position
        rows = first[:, None] + torch.arange(self.frame_stack, device=pixels.device)
        stacks = pixels.flatten(0, 1).index_select(0, rows.flatten())
        return stacks.view(samples, -1, *pixels.shape[3:])
