"""Acting: one step in every environment, written to replay."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase

from xtra_rl.data.buffers import TrajectoryReplayBuffer

#: Names in the log of what a planner may say about its search.
_SEARCH_METRICS = {
    "search/policy_entropy": "entropy",
    "search/depth": "depth",
    "search/root_value": "value",
}


class Actor:
    """Runs a planner in batched environments and appends what happens to a replay buffer.

    A life loss ends the trajectory in the buffer (as a termination) while the game goes on. Each ended trajectory gets
    a last row with its final frame, so that a truncated one can be bootstrapped.

    Args:
        env: from :func:`~xtra_rl.envs.make_env`, batch ``[N]``.
        planner: reads ``observation`` and ``action_mask``, writes ``action`` and ``("search", ...)``.
        buffer: replay with N columns.

    Attributes:
        env_steps: agent steps taken in all environments together.
    """

    def __init__(self, env: EnvBase, planner: torch.nn.Module, buffer: TrajectoryReplayBuffer) -> None:
        self.env = env
        self.planner = planner
        self.buffer = buffer
        self.env_steps = 0
        self.num_envs = int(env.batch_size[0])
        self._current = env.reset()
        self._position = torch.zeros(self.num_envs, dtype=torch.int32)
        self._returns = torch.zeros(self.num_envs, dtype=torch.float64)
        self.search_metrics: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self) -> list[float]:
        """Take one agent step in every environment.

        Returns:
            raw scores of the games that ended with it.
        """
        observed = self._current
        planned = self.planner(observed.select("observation", "action_mask"))
        acting = observed.clone(recurse=False).set("action", planned["action"])
        stepped, following = self.env.step_and_maybe_reset(acting)
        outcome = stepped["next"]
        self._write(observed, planned, outcome)
        found = planned["search"]
        self.search_metrics = {
            name: found[key].mean() for name, key in _SEARCH_METRICS.items() if key in found.keys()
        }
        self._returns += outcome["reward"].squeeze(-1).double()
        done = outcome["done"].squeeze(-1)
        finished = self._returns[done].tolist()
        self._returns[done] = 0.0
        self._current = following
        self.env_steps += self.num_envs
        return finished

    def _write(self, observed: TensorDictBase, planned: TensorDictBase, outcome: TensorDictBase) -> None:
        """Append the transitions, and a final row for each trajectory that ended."""
        done, terminated, life_lost = (
            outcome[key].squeeze(-1) for key in ("done", "terminated", "end-of-life")
        )
        ended = terminated | life_lost
        rows = TensorDict(
            {
                "pixels": observed["pixels"],
                "action": planned["action"],
                "reward": outcome["reward"].squeeze(-1),
                "terminated": ended,
                "truncated": done & ~ended,
                "has_action": torch.ones_like(done),
                "step": self._position,
                "search_policy": planned["search", "policy"].float(),
                "search_value": planned["search", "value"].float(),
            },
            batch_size=[self.num_envs],
        )
        self.buffer.append(rows, torch.arange(self.num_envs))
        self._position += 1
        over = (done | life_lost).nonzero().squeeze(-1)
        if over.numel():
            last = rows[over].apply(torch.zeros_like)
            last["pixels"] = outcome["pixels"][over]
            last["step"] = self._position[over]
            self.buffer.append(last, over)
            self._position[over] = 0
