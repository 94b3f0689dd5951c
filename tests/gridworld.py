"""A tiny pixel world with known optimum for tests that learn: walk to the goal on an empty board.

The board has 6 x 6 cells of 4 x 4 pixels. Start and goal are drawn anew in every episode and differ. Actions
0..3 move up, right, down, left (a wall keeps the agent where it is); action 4 stays in place and is illegal.
Reaching the goal pays ``goal_reward`` and terminates; after 20 steps the episode is truncated.
"""

from __future__ import annotations

from typing import Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs.common import EnvBase

SIZE = 6
CELL = 4
MAX_STEPS = 20
NUM_ACTIONS = 5
LEGAL_ACTIONS = (0, 1, 2, 3)

MOVES = torch.tensor([[-1, 0], [0, 1], [1, 0], [0, -1], [0, 0]])


def _successors() -> Tensor:
    """Cell after each action, ``[cells, actions]``."""
    cells = torch.arange(SIZE * SIZE)
    position = torch.stack([cells // SIZE, cells % SIZE], -1)
    moved = (position[:, None] + MOVES).clamp(0, SIZE - 1)
    return moved[..., 0] * SIZE + moved[..., 1]


def _pictures(variant: str) -> Tensor:
    """Frame of every (agent, goal) pair, ``[cells, cells, 1, H, W]`` uint8."""
    cells = SIZE * SIZE
    board = torch.zeros(cells, cells, cells, dtype=torch.uint8)
    index = torch.arange(cells)
    board[:, index, index] = 128
    board[index, :, index] = 255
    frames = board.view(cells, cells, 1, SIZE, SIZE)
    frames = frames.repeat_interleave(CELL, -1).repeat_interleave(CELL, -2)
    return 255 - frames if variant == "inverted" else frames


class GridWorld(EnvBase):
    """Batched board; see the module's docstring."""

    def __init__(self, num_envs: int, seed: int, variant: str, goal_reward: float) -> None:
        super().__init__(batch_size=[num_envs])
        self.goal_reward = goal_reward
        self._successor = _successors()
        self._picture = _pictures(variant)
        self._generator = torch.Generator()
        self._agent = torch.zeros(num_envs, dtype=torch.int64)
        self._goal = torch.ones(num_envs, dtype=torch.int64)
        self._steps = torch.zeros(num_envs, dtype=torch.int64)
        self._mask = torch.tensor([True] * 4 + [False]).expand(num_envs, -1)
        flag = Binary(shape=(num_envs, 1), dtype=torch.bool)
        self.observation_spec = Composite(
            pixels=Bounded(0, 255, shape=(num_envs, 1, SIZE * CELL, SIZE * CELL), dtype=torch.uint8),
            action_mask=Binary(shape=(num_envs, NUM_ACTIONS), dtype=torch.bool),
            shape=(num_envs,),
        )
        self.action_spec = Categorical(
            NUM_ACTIONS, shape=(num_envs,), dtype=torch.int64, mask=self._mask.clone()
        )
        self.reward_spec = Unbounded(shape=(num_envs, 1), dtype=torch.float32)
        self.done_spec = Composite(
            done=flag, terminated=flag.clone(), truncated=flag.clone(), shape=(num_envs,)
        )
        self._set_seed(seed)

    def _set_seed(self, seed: int | None) -> None:
        self._generator.manual_seed(0 if seed is None else seed)

    def _observe(self) -> dict[str, Tensor]:
        return {"pixels": self._picture[self._agent, self._goal], "action_mask": self._mask.clone()}

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs) -> TensorDictBase:
        count = self.batch_size[0]
        mask = None if tensordict is None else tensordict.get("_reset", None)
        mask = torch.ones(count, dtype=torch.bool) if mask is None else mask.view(count)
        agent = torch.randint(SIZE * SIZE, (count,), generator=self._generator)
        # An offset of 1..cells - 1 makes the goal any cell but the agent's.
        offset = torch.randint(1, SIZE * SIZE, (count,), generator=self._generator)
        self._agent = torch.where(mask, agent, self._agent)
        self._goal = torch.where(mask, (agent + offset) % (SIZE * SIZE), self._goal)
        self._steps = self._steps.masked_fill(mask, 0)
        false = torch.zeros(count, 1, dtype=torch.bool)
        flags = {"done": false, "terminated": false.clone(), "truncated": false.clone()}
        return TensorDict({**self._observe(), **flags}, batch_size=self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        self._agent = self._successor[self._agent, tensordict["action"]]
        self._steps = self._steps + 1
        terminated = (self._agent == self._goal).unsqueeze(-1)
        truncated = (self._steps >= MAX_STEPS).unsqueeze(-1) & ~terminated
        result = {
            "reward": terminated * self.goal_reward,
            "terminated": terminated,
            "truncated": truncated,
            "done": terminated | truncated,
        }
        return TensorDict({**self._observe(), **result}, batch_size=self.batch_size)


def make_gridworld(
    num_envs: int,
    seed: int,
    training: bool = True,
    *,
    variant: Literal["plain", "inverted"] = "plain",
    goal_reward: float = 1.0,
) -> EnvBase:
    """Factory for ``register_task(name, make_gridworld, num_actions=5, action_ids=(0, 1, 2, 3))``.

    ``variant="inverted"`` swaps black and white: the same game as a second, related task. Training and
    evaluation do not differ.
    """
    if variant not in ("plain", "inverted"):
        raise ValueError(f"variant must be 'plain' or 'inverted', got {variant!r}.")
    return GridWorld(num_envs, seed, variant, goal_reward)


def optimal_return(goal_reward: float = 1.0) -> float:
    """Undiscounted return of the best policy: the farthest goal is 10 steps away and 20 are allowed."""
    return goal_reward


def optimal_steps() -> float:
    """Mean length of the best policy's episodes: mean Manhattan distance of two different cells, here 4."""
    cells = torch.arange(SIZE * SIZE)
    position = torch.stack([cells // SIZE, cells % SIZE], -1)
    distance = (position[:, None] - position).abs().sum(-1)
    return distance.sum().item() / (SIZE**2 * (SIZE**2 - 1))


def random_policy_statistics(goal_reward: float = 1.0) -> tuple[float, float]:
    """Exact mean return and mean episode length of random legal moves, by powers of the transition matrix."""
    cells = SIZE * SIZE
    move = torch.zeros(cells, cells, dtype=torch.float64)
    for action in LEGAL_ACTIONS:
        move[torch.arange(cells), _successors()[:, action]] += 1 / len(LEGAL_ACTIONS)
    goal = torch.eye(cells, dtype=torch.bool)
    # alive[g, c]: probability that the agent is at c and has never been at goal g, from a start other than g.
    alive = (~goal).to(torch.float64) / (cells - 1)
    steps = 0.0
    for _ in range(MAX_STEPS):
        steps += alive.sum(-1).mean().item()
        alive = (alive @ move).masked_fill(goal, 0.0)
    return goal_reward * (1 - alive.sum(-1).mean().item()), steps


def optimal_action(pixels: Tensor) -> Tensor:
    """An action of the best policy, read from frames ``[N, 1, H, W]`` of the plain variant."""
    board = pixels[:, 0, ::CELL, ::CELL].flatten(1)
    agent, goal = board.eq(255).int().argmax(-1), board.eq(128).int().argmax(-1)
    down, right = goal // SIZE - agent // SIZE, goal % SIZE - agent % SIZE
    vertical = torch.where(down > 0, 2, 0)
    horizontal = torch.where(right > 0, 1, 3)
    return torch.where(down != 0, vertical, horizontal)
