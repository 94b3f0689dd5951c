"""Play whole episodes with any policy and store them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.envs import EnvBase
from torchrl.envs.utils import ExplorationType, set_exploration_type

from xtra_rl.data.trajectory_writer import TrajectoryWriter

ROW_KEYS = ("pixels", "action", "reward", "terminated", "truncated")


def collect_episodes(
    policy: Callable[[TensorDictBase], TensorDictBase],
    task: str,
    writer: TrajectoryWriter,
    *,
    num_episodes: int,
    max_steps: int,
    env_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    mode: Literal["greedy", "sampled"] = "greedy",
    num_envs: int | None = None,
    checkpoint: int = 0,
    on_episode: Callable[[float], None] | None = None,
) -> list[float]:
    """Play ``num_episodes`` whole games in lockstep and append them to a dataset.

    As in XTRA (arXiv 2210.10763) appendix F the protocol is the evaluation's: a lost life does not end an episode, and
    each environment contributes its first episode only.

    Args:
        policy: reads ``observation`` and ``action_mask``, writes ``action``; a planner, a random policy, a module.
        task: name of a registered task.
        writer: the open dataset.
        num_episodes: games to play.
        max_steps: env steps after which a game is truncated.
        env_kwargs: further arguments of :func:`~xtra_rl.envs.make_env`.
        seed: of the first environment; the following ones count up.
        mode: ``"greedy"`` acts without noise, ``"sampled"`` with the policy's own exploration, for diversity.
        num_envs: games played at once; default all. Their frames wait in memory until they end.
        checkpoint: id stored with the episodes, e.g. the training step that played them.
        on_episode: told the raw score of each stored episode.

    Returns:
        raw scores.

    Raises:
        ValueError: if a number is not positive or ``mode`` is unknown.
    """
    from xtra_rl.envs import make_env

    if num_episodes < 1 or max_steps < 1:
        raise ValueError(f"num_episodes={num_episodes}, max_steps={max_steps}: expected at least 1")
    modes = {"greedy": ExplorationType.DETERMINISTIC, "sampled": ExplorationType.RANDOM}
    if mode not in modes:
        raise ValueError(f"mode is {mode!r}; expected 'greedy' or 'sampled'")
    group = min(num_envs or num_episodes, num_episodes)
    scores: list[float] = []
    for start in range(0, num_episodes, group):
        size = min(group, num_episodes - start)
        env = make_env(task, size, seed=seed + start, episodic_life=False, **(env_kwargs or {}))
        try:
            with torch.no_grad(), set_exploration_type(modes[mode]):
                episodes = _play(policy, env, max_steps)
        finally:
            env.close(raise_if_closed=False)
        for rows in episodes:
            writer.add_episode(rows, checkpoint=checkpoint)
            scores.append(float(rows["reward"].sum()))
            if on_episode is not None:
                on_episode(scores[-1])
    return scores


def _play(
    policy: Callable[[TensorDictBase], TensorDictBase], env: EnvBase, max_steps: int
) -> list[TensorDict]:
    """First episode of each environment, as rows ``[T+1]`` with the final frame last."""
    size = int(env.batch_size[0])
    current = env.reset()
    active = torch.ones(size, dtype=torch.bool)
    rows: list[list[TensorDictBase]] = [[] for _ in range(size)]
    for step in range(max_steps):
        current = policy(current)
        stepped, following = env.step_and_maybe_reset(current)
        outcome = stepped["next"]
        terminated = outcome["terminated"].squeeze(-1)
        done = outcome["done"].squeeze(-1) | (step + 1 == max_steps)
        transition = TensorDict(
            {
                "pixels": current["pixels"],
                "action": current["action"],
                "reward": outcome["reward"].squeeze(-1),
                "terminated": terminated,
                "truncated": done & ~terminated,
            },
            batch_size=[size],
        ).clone()
        for i in active.nonzero().squeeze(-1).tolist():
            rows[i].append(transition[i])
            if done[i]:
                last = transition[i].apply(torch.zeros_like)
                rows[i].append(last.set("pixels", outcome["pixels"][i].clone()))
        active &= ~done
        if not active.any():
            break
        current = following
    return [torch.stack(list(episode)) for episode in rows]
