"""Fresh targets from a lagging target network: reanalysed policies and bootstrap values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from xtra_rl.data.windows import stack_frames
from xtra_rl.search import InitialOutput, RootNoise
from xtra_rl.search.base_planner import SearchPlanner
from xtra_rl.targets.memory import RootMemory
from xtra_rl.targets.value import (
    bootstrap_positions,
    clip_reward,
    n_step_values,
    reward_targets,
    task_ids,
    td_steps_by_age,
)


class ReanalyzeTargets:
    """Turn windows of replay into a training batch with MuZero Reanalyze (EfficientZero section 4.3).

    Every distinct frame stack that is needed is encoded once by the target network; one search runs over all roots.

    Args:
        planner: a planner over the **target** network (a lagging copy of the learner).
        action_mask: legal actions of the task, ``[A]`` bool.
        unroll_steps: K.
        td_steps: n of fresh data; windows must hold ``K + n`` transitions and frames.
        discount: per env step; by default the planner's.
        age_interval: transitions per step taken off ``td_steps`` (30,000 published), ``None`` for no correction.
        policy_ratio: share of the batch whose policies are searched again (1.0 in XTRA); the rest uses the visit
            distribution stored while acting, or learns no policy where none is stored (offline data).
        value_source: ``"network"`` bootstraps from the target network's value, as the released codes do; ``"search"``
            from the root value of a search, as EfficientZero's paper writes.
        noise: exploration noise at the roots; the released codes have it.
        clip_rewards: learn from the sign of rewards.
        frame_stack: F.
        max_batch: frame stacks encoded at once, a bound on memory.
        shard: the part of the task's windows that calls get, and how many there are on all ranks together.
        memory: of the target network's initial inferences, so that a stack is encoded once between two publications
            and not whenever it is drawn; ``None`` encodes each distinct stack of a batch once.

    Raises:
        ValueError: if ``policy_ratio`` is outside [0, 1] or ``td_steps`` is not positive.
    """

    bootstrap_pixels = True

    def __init__(
        self,
        planner: SearchPlanner,
        action_mask: Tensor,
        *,
        unroll_steps: int = 5,
        td_steps: int = 5,
        discount: float | None = None,
        age_interval: int | None = 30_000,
        policy_ratio: float = 1.0,
        value_source: Literal["network", "search"] = "network",
        noise: bool = True,
        clip_rewards: bool = True,
        frame_stack: int = 4,
        max_batch: int = 4096,
        shard: tuple[slice, int] | None = None,
        memory: RootMemory | None = None,
    ) -> None:
        if not 0.0 <= policy_ratio <= 1.0:
            raise ValueError(f"policy_ratio is {policy_ratio}; expected a share between 0 and 1")
        if td_steps < 1:
            raise ValueError(f"td_steps is {td_steps}; expected at least 1")
        if value_source not in ("network", "search"):
            raise ValueError(f"value_source is {value_source!r}; expected 'network' or 'search'")
        self.planner = planner
        self.action_mask = action_mask
        self.unroll_steps = unroll_steps
        self.td_steps = td_steps
        self.discount = planner.discount if discount is None else discount
        self.age_interval = age_interval
        self.policy_ratio = policy_ratio
        self.value_source = value_source
        self.noise = noise
        self.clip_rewards = clip_rewards
        self.frame_stack = frame_stack
        self.max_batch = max_batch
        self.shard = shard
        self.memory = memory

    @property
    def bootstrap_steps(self) -> int:
        """Transitions, values and frames that a window needs past the unroll."""
        return self.td_steps

    def state_dict(self) -> dict[str, Tensor]:
        """Random state of the searches."""
        return {"planner": self.planner.rng_state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore :meth:`state_dict`."""
        self.planner.set_rng_state(state["planner"])

    def draw(self, count: int) -> TensorDict:
        """What is random about the targets of ``count`` windows, ``[count]``.

        Windows that hold it as ``"drawn"`` get the same targets wherever, and beside whatever other windows, they are
        reanalysed: this is how several processes share a batch. Without it a call draws for itself.

        Returns:
            ``renewed``: whose policies are searched again; and with noise, for each position that may be searched,
            ``noise [count, P, A]`` and ``tie_seeds [count, P]``, from
            :meth:`~xtra_rl.search.SearchPlanner.draw_noise`.
        """
        drawn = {"renewed": torch.arange(count) < math.ceil(self.policy_ratio * count - 1e-6)}
        if self.noise:
            positions = self.unroll_steps + 1 + (self.td_steps if self.value_source == "search" else 0)
            mask = self.action_mask.expand(count * positions, -1)
            for name, numbers in self.planner.draw_noise(mask)._asdict().items():
                drawn["noise" if name == "root" else name] = numbers.unflatten(0, (count, positions))
        return TensorDict(drawn, [count])

    def _draw_own(self, count: int) -> TensorDictBase:
        """What is random about this rank's ``count`` windows."""
        if self.shard is None:
            return self.draw(count)
        rows, total = self.shard
        return self.draw(total)[rows]

    @torch.no_grad()
    def __call__(self, windows: TensorDictBase) -> TensorDict:
        """Training batch ``[B]`` for :class:`~xtra_rl.objectives.muzero.MuZeroLoss`, before augmentation."""
        unroll = self.unroll_steps
        mask, terminated = windows["transition_mask"], windows["terminated"]
        steps = td_steps_by_age(windows["age"], self.td_steps, self.age_interval)
        index, ended = bootstrap_positions(mask, terminated, td_steps=steps, unroll_steps=unroll)
        bootstrap = torch.zeros_like(windows["observation_mask"]).scatter_(1, index, True)
        bootstrap &= windows["observation_mask"]
        drawn = windows.get("drawn", None)
        drawn = (self._draw_own(len(mask)) if drawn is None else drawn).to(mask.device)
        searched = torch.zeros_like(bootstrap)
        searched[:, : unroll + 1] = mask[:, : unroll + 1] & drawn["renewed"][:, None]
        value, policy = self._infer(windows, bootstrap, searched, drawn)

        policy_mask = searched[:, : unroll + 1]
        stored = windows.get("search_policy", None)
        if stored is not None:
            policy = torch.where(policy_mask[..., None], policy, stored)
            policy_mask = mask[:, : unroll + 1]
        reward = clip_reward(windows["reward"]) if self.clip_rewards else windows["reward"]
        value_target, value_mask = n_step_values(
            reward, value, mask, terminated, td_steps=steps, unroll_steps=unroll, discount=self.discount
        )
        return make_batch(
            windows,
            reward,
            policy,
            policy_mask,
            value_target,
            value_mask,
            unroll_steps=unroll,
            frame_stack=self.frame_stack,
            value_prefix_horizon=self.planner.world_model.value_prefix_horizon,
        )

    def _infer(
        self, windows: TensorDictBase, bootstrap: Tensor, searched: Tensor, drawn: TensorDictBase
    ) -> tuple[Tensor, Tensor]:
        """Values at the bootstrap positions ``[B, W+1]`` and policies at the searched ones ``[B, K+1, A]``."""
        needed, pixels = bootstrap | searched, windows["pixels"]
        roots = needed if self.value_source == "search" else searched
        stacks = stack_frames(pixels, self.frame_stack)[:, : needed.shape[1]]
        value = torch.zeros(needed.shape, device=pixels.device)
        policy = torch.zeros(*needed.shape, self.action_mask.shape[-1], device=pixels.device)
        order = needed.nonzero()
        for chunk in order.split(self.max_batch):
            rows, columns = chunk.unbind(1)
            initial = self._inferred(windows, stacks, rows, columns)
            value[rows, columns] = initial.value.float()
            select = roots[rows, columns].nonzero().squeeze(1)
            if select.numel() == 0:
                continue
            rows, columns = rows[select], columns[select]
            result = self.planner.search_from(
                InitialOutput(initial.prior_logits[select], initial.value[select], initial.embedding[select]),
                self.action_mask.expand(select.numel(), -1),
                noise=self.noise
                and RootNoise(drawn["noise"][rows, columns], drawn["tie_seeds"][rows, columns]),
            )
            policy[rows, columns] = result.action_weights.float()
            if self.value_source == "search":
                value[rows, columns] = result.root_value.float()
        return value, policy[:, : self.unroll_steps + 1]

    def _inferred(
        self, windows: TensorDictBase, stacks: Tensor, rows: Tensor, columns: Tensor
    ) -> InitialOutput:
        """The target network's initial inference of ``stacks[rows, columns]``."""
        if self.memory is None:
            return self.planner.initial_inference(stacks[rows, columns])
        keys = windows["key"][rows, columns]
        return self.memory.infer(keys, lambda places: stacks[rows[places], columns[places]])


def make_batch(
    windows: TensorDictBase,
    reward: Tensor,
    policy_target: Tensor,
    policy_mask: Tensor,
    value_target: Tensor,
    value_mask: Tensor,
    *,
    unroll_steps: int,
    frame_stack: int,
    value_prefix_horizon: int | None,
) -> TensorDict:
    """Assemble the training batch from a window and its value and policy targets.

    Consistency is learnt where the trajectory has the next frame and did not end for good on the way, rewards also in
    absorbing states.
    """
    mask, terminated = windows["transition_mask"], windows["terminated"]
    reward_target, reward_mask = reward_targets(
        reward, mask, terminated, unroll_steps=unroll_steps, value_prefix_horizon=value_prefix_horizon
    )
    steps = mask[:, :unroll_steps]
    return TensorDict(
        {
            "pixels": windows["pixels"][:, : frame_stack + unroll_steps],
            "action": windows["action"][:, :unroll_steps],
            "reward_target": reward_target,
            "reward_mask": reward_mask,
            "value_target": value_target,
            "value_mask": value_mask,
            "policy_target": policy_target,
            "policy_mask": policy_mask,
            "consistency_mask": steps & ~terminated[:, :unroll_steps],
            "priority_weight": windows["priority_weight"],
            "index": windows["index"],
            "task_id": task_ids(windows),
        },
        batch_size=windows.batch_size[:1],
    )
