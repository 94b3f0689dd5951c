"""Targets from a teacher's stored policies and values: no network and no search at training time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from xtra_rl.data.windows import stack_frames
from xtra_rl.search.base_planner import SearchPlanner
from xtra_rl.targets.reanalyze import make_batch
from xtra_rl.targets.value import clip_reward, n_step_values


class TeacherTargets:
    """Turn windows of annotated offline data into a training batch (XTRA section 3.1).

    The policy target is the teacher's, the value target the n-step return bootstrapped from the teacher's value. There
    is no age correction: the teacher does not change.

    Args:
        unroll_steps: K.
        td_steps: n.
        discount: per env step.
        value_source: ``"n_step"``, or ``"teacher"`` for the teacher's value of the state itself.
        clip_rewards: learn from the sign of rewards.
        frame_stack: F.
        value_prefix_horizon: of the student; ``None`` for single rewards.

    Raises:
        ValueError: if an option is unknown or ``td_steps`` is not positive.

    Example:
        A game of 8 steps with what a teacher says of each, as :func:`teacher_columns` makes it:

        >>> from tensordict import TensorDict
        >>> from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer
        >>> rows = {"pixels": torch.zeros(9, 1, 36, 36, dtype=torch.uint8), "action": torch.zeros(9)}
        >>> rows |= {"reward": torch.ones(9), "terminated": torch.arange(9) == 7, "truncated": torch.zeros(9) > 0}
        >>> rows |= {"teacher_policy": torch.full((9, 18), 1 / 18), "teacher_value": torch.zeros(9)}
        >>> buffer = TrajectoryReplayBuffer(100, memmap=False)
        >>> _ = buffer.extend_trajectory(TensorDict(rows, [9]))
        >>> targets = TeacherTargets(unroll_steps=2, td_steps=3)
        >>> replay = MultiTaskReplayBuffer({"pong": buffer}, {"pong": 4})
        >>> windows = replay.sample_windows(unroll_steps=2, bootstrap_steps=targets.bootstrap_steps, frame_stack=4)
        >>> batch = targets(windows["pong"])
        >>> batch["policy_target"].shape, batch["value_target"].shape
        (torch.Size([4, 3, 18]), torch.Size([4, 3]))
    """

    bootstrap_pixels = False

    def __init__(
        self,
        *,
        unroll_steps: int = 5,
        td_steps: int = 5,
        discount: float = 0.988054,
        value_source: Literal["n_step", "teacher"] = "n_step",
        clip_rewards: bool = True,
        frame_stack: int = 4,
        value_prefix_horizon: int | None = 5,
    ) -> None:
        if td_steps < 1:
            raise ValueError(f"td_steps is {td_steps}; expected at least 1")
        if value_source not in ("n_step", "teacher"):
            raise ValueError(f"value_source is {value_source!r}; expected 'n_step' or 'teacher'")
        self.unroll_steps = unroll_steps
        self.td_steps = td_steps
        self.discount = discount
        self.value_source = value_source
        self.clip_rewards = clip_rewards
        self.frame_stack = frame_stack
        self.value_prefix_horizon = value_prefix_horizon

    @property
    def bootstrap_steps(self) -> int:
        """Transitions and teacher values that a window needs past the unroll (no frames)."""
        return self.td_steps

    @torch.no_grad()
    def __call__(self, windows: TensorDictBase) -> TensorDict:
        """Training batch ``[B]`` for :class:`~xtra_rl.objectives.muzero.MuZeroLoss`, before augmentation."""
        mask, terminated, teacher_value = (
            windows["transition_mask"],
            windows["terminated"],
            windows["teacher_value"],
        )
        reward = clip_reward(windows["reward"]) if self.clip_rewards else windows["reward"]
        value_target, value_mask = n_step_values(
            reward,
            teacher_value,
            mask,
            terminated,
            td_steps=torch.full_like(windows["index"], self.td_steps),
            unroll_steps=self.unroll_steps,
            discount=self.discount,
        )
        if self.value_source == "teacher":
            alive = mask[:, : self.unroll_steps + 1]
            value_target = torch.where(alive, teacher_value[:, : self.unroll_steps + 1], value_target)
        return make_batch(
            windows,
            reward,
            windows["teacher_policy"],
            mask[:, : self.unroll_steps + 1],
            value_target,
            value_mask,
            unroll_steps=self.unroll_steps,
            frame_stack=self.frame_stack,
            value_prefix_horizon=self.value_prefix_horizon,
        )


@torch.no_grad()
def teacher_columns(
    planner: SearchPlanner,
    trajectory: TensorDictBase,
    action_mask: Tensor,
    *,
    source: Literal["prior", "search"] = "prior",
    frame_stack: int = 4,
    max_batch: int = 256,
) -> tuple[Tensor, Tensor]:
    """A teacher's policy and value at every row of one trajectory.

    Args:
        planner: over the teacher's network.
        trajectory: rows ``[T+1]`` with ``pixels``.
        action_mask: legal actions, ``[A]`` bool; illegal ones get probability 0.
        source: ``"prior"``, the policy head, or ``"search"``, a search without noise.
        frame_stack: F; the first frame is repeated before the start.
        max_batch: frame stacks encoded at once.

    Returns:
        policies ``[T+1, A]`` float32 and values ``[T+1]`` float32 on the trajectory's own device.

    Raises:
        ValueError: if ``source`` is unknown.

    Example:
        >>> from xtra_rl.models import make_world_model
        >>> from xtra_rl.search import GumbelMCTSPlanner
        >>> teacher = make_world_model(latent="vector", value_prefix=False, image_size=36, image_channels=1, channels=8)
        >>> game = TensorDict({"pixels": torch.zeros(9, 1, 36, 36, dtype=torch.uint8)}, [9])
        >>> policy, value = teacher_columns(GumbelMCTSPlanner(teacher), game, torch.ones(18, dtype=torch.bool))
        >>> policy.shape, value.shape
        (torch.Size([9, 18]), torch.Size([9]))
    """
    if source not in ("prior", "search"):
        raise ValueError(f"source is {source!r}; expected 'prior' or 'search'")
    policies, values = [], []
    for stacks in _stack_batches(trajectory["pixels"], frame_stack, max_batch):
        initial = planner.initial_inference(stacks)
        if source == "search":
            result = planner.search_from(initial, action_mask.expand(stacks.shape[0], -1), noise=False)
            policies.append(result.action_weights.float())
            values.append(result.root_value.float())
        else:
            policies.append(initial.prior_logits.float().masked_fill(~action_mask, -torch.inf).softmax(-1))
            values.append(initial.value.float())
    device = trajectory["pixels"].device
    return torch.cat(policies).to(device), torch.cat(values).to(device)


def _stack_batches(pixels: Tensor, frame_stack: int, max_batch: int) -> Iterator[Tensor]:
    """Frame stacks ``[b, F*C, H, W]`` of every row of a trajectory, in order."""
    padded = torch.cat([pixels[:1].expand(frame_stack - 1, *pixels.shape[1:]), pixels])
    stacks = stack_frames(padded[None], frame_stack)[0]
    yield from stacks.split(max_batch)
