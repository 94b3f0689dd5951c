"""What a score is worth: random play and the best constant action."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs.common import EnvBase

from xtra_rl.evaluation.evaluate import EvaluationResult, SupportsUpdate, default_make_env, evaluate
from xtra_rl.modules import OwnGenerator


class RandomPolicy(OwnGenerator, TensorDictModuleBase):
    """Draw a legal action uniformly, under every exploration type.

    Reads ``action_mask [N, A]`` bool, writes ``action [N]`` int64.

    Args:
        generator: source of the randomness, on the CPU.

    Example:
        >>> from tensordict import TensorDict
        >>> policy = RandomPolicy(torch.Generator().manual_seed(0))
        >>> mask = torch.tensor([[False, True, False]])
        >>> policy(TensorDict({"action_mask": mask}, batch_size=[1]))["action"]
        tensor([1])
    """

    in_keys = ["action_mask"]
    out_keys = ["action"]

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action``."""
        mask = tensordict["action_mask"]
        action = torch.multinomial(mask.float().cpu(), 1, generator=self.generator).squeeze(-1)
        return tensordict.set("action", action.to(mask.device))


class ConstantPolicy(TensorDictModuleBase):
    """Always take the same action. Reads ``action_mask [N, A]`` bool, writes ``action [N]`` int64.

    Args:
        action: action id.

    Raises:
        ValueError: when called where ``action`` is illegal.

    Example:
        >>> from tensordict import TensorDict
        >>> mask = torch.ones(2, 18, dtype=torch.bool)
        >>> ConstantPolicy(3)(TensorDict({"action_mask": mask}, batch_size=[2]))["action"]
        tensor([3, 3])
    """

    in_keys = ["action_mask"]
    out_keys = ["action"]

    def __init__(self, action: int) -> None:
        super().__init__()
        self.action = action

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write ``action [*]``.

        Raises:
            ValueError: if the action is illegal in one of the environments.
        """
        mask = tensordict["action_mask"]
        if not 0 <= self.action < mask.shape[-1] or not bool(mask[..., self.action].all()):
            legal = mask.reshape(-1, mask.shape[-1]).all(0).nonzero().squeeze(-1).tolist()
            raise ValueError(f"action={self.action} is illegal here; legal actions: {legal}")
        return tensordict.set("action", torch.full(mask.shape[:-1], self.action, device=mask.device))


class ConstantActionResult(NamedTuple):
    """The best constant action and what every legal one scored on average."""

    action: int
    result: EvaluationResult
    mean_returns: dict[int, float]


def random_returns(
    task: str,
    *,
    num_episodes: int = 32,
    env_kwargs: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    num_envs: int | None = None,
    progress: SupportsUpdate | None = None,
    make_env: Callable[..., EnvBase] | None = None,
) -> EvaluationResult:
    """Scores of uniformly random legal actions, by the protocol of :func:`~xtra_rl.evaluation.evaluate.evaluate`.

    Args:
        task: name of a registered task.
        num_episodes: games.
        env_kwargs: further arguments of :func:`~xtra_rl.envs.make_env`.
        max_steps: env steps after which a game is cut; None = only where the environment cuts it.
        seed: of the first environment, and of the actions.
        num_envs: games played at once; default all.
        progress: its ``update`` is called for every game that ends.
        make_env: used instead of :func:`~xtra_rl.envs.make_env`.

    Example:
        >>> env = {"image_size": 36, "grayscale": True}
        >>> random_returns("Pong", num_episodes=2, env_kwargs=env, max_steps=20).lengths
        [20, 20]
    """
    return evaluate(
        RandomPolicy(torch.Generator().manual_seed(seed)),
        task,
        num_episodes=num_episodes,
        env_kwargs=env_kwargs,
        max_steps=max_steps,
        seed=seed,
        mode="sampled",
        num_envs=num_envs,
        progress=progress,
        make_env=make_env,
    )


def best_constant_action(
    task: str,
    *,
    num_episodes: int = 4,
    env_kwargs: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    num_envs: int | None = None,
    progress: SupportsUpdate | None = None,
    make_env: Callable[..., EnvBase] | None = None,
) -> ConstantActionResult:
    """Score of the best single action held for ever, which an agent must beat to have learnt anything.

    Plays ``num_episodes`` for every legal action. The best of several noisy means is biased upwards, which is the safe
    side for a baseline. Equal means go to the lowest action.

    Args:
        task: name of a registered task.
        num_episodes: games of every action.
        env_kwargs: further arguments of :func:`~xtra_rl.envs.make_env`.
        max_steps: env steps after which a game is cut; None = only where the environment cuts it.
        seed: of the first environment.
        num_envs: games played at once; default all.
        progress: its ``update`` is called for every game that ends.
        make_env: used instead of :func:`~xtra_rl.envs.make_env`.
    """
    make_env = make_env or default_make_env()
    env = make_env(task, 1, seed=seed, episodic_life=False, **(env_kwargs or {}))
    try:
        legal = env.reset()["action_mask"][0].nonzero().squeeze(-1).tolist()
    finally:
        env.close(raise_if_closed=False)
    results = {
        action: evaluate(
            ConstantPolicy(action),
            task,
            num_episodes=num_episodes,
            env_kwargs=env_kwargs,
            max_steps=max_steps,
            seed=seed,
            num_envs=num_envs,
            progress=progress,
            make_env=make_env,
        )
        for action in legal
    }
    best = max(legal, key=lambda action: (results[action].mean_return, -action))
    return ConstantActionResult(best, results[best], {a: result.mean_return for a, result in results.items()})
