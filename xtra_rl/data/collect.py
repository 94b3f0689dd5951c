"""Play whole episodes with any policy and store them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torchrl.envs import EnvBase
from torchrl.envs.utils import set_exploration_type

from xtra_rl.data.frames import CompressedFrames
from xtra_rl.data.trajectory_writer import TrajectoryWriter
from xtra_rl.envs.lockstep import EXPLORATION, Policy, act_unfinished
from xtra_rl.modules import evaluating
from xtra_rl.training.seeding import derive_seed


def collect_episodes(
    policy: Policy,
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
    """Play ``num_episodes`` whole games and append each to a dataset as it ends.

    As in XTRA (arXiv 2210.10763) appendix F the protocol is the evaluation's: a lost life does not end an episode, and
    each environment contributes its first episode only. Episodes of this checkpoint that the dataset holds already are
    not played again, so a collection that was killed continues where it was: call this once more with the same
    arguments.

    Args:
        policy: reads ``observation`` and ``action_mask``, writes ``action``; a planner, a random policy, a module,
            which is in eval mode meanwhile. Its ``generator``, if it has one, is seeded anew for each round of
            environments: a collection that goes on after a kill must not play the games again that it has played.
        task: name of a registered task.
        writer: the open dataset.
        num_episodes: games of this checkpoint in the end.
        max_steps: env steps after which a game is truncated.
        env_kwargs: further arguments of :func:`~xtra_rl.envs.make_env`.
        seed: of the first round of environments; a later round gets ``seed`` plus the number of episodes before it.
        mode: ``"greedy"`` acts without noise, ``"sampled"`` with the policy's own exploration, for diversity.
        num_envs: games played at once; default all. Their frames wait in memory, compressed, until they end.
        checkpoint: id stored with the episodes, e.g. the training step that played them.
        on_episode: told the raw score of each stored episode.

    Returns:
        raw scores of the games played now, in the order in which they ended.

    Raises:
        ValueError: if a number is not positive or ``mode`` is unknown.

    Example:
        >>> import tempfile
        >>> from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
        >>> from xtra_rl.evaluation.baselines import RandomPolicy
        >>> policy, env = RandomPolicy(torch.Generator().manual_seed(0)), {"image_size": 36, "grayscale": True}
        >>> path = f"{tempfile.mkdtemp()}/pong"
        >>> with TrajectoryWriter(path, "pong", frame_shape=(1, 36, 36), grayscale=True) as writer:
        ...     scores = collect_episodes(policy, "pong", writer, num_episodes=2, max_steps=20, env_kwargs=env)
        >>> dataset = TrajectoryDataset(path)
        >>> dataset.num_episodes, dataset.num_transitions, len(scores)
        (2, 40, 2)
    """
    from xtra_rl.envs import make_env

    if num_episodes < 1 or max_steps < 1:
        raise ValueError(f"num_episodes={num_episodes}, max_steps={max_steps}: expected at least 1")
    if mode not in EXPLORATION:
        raise ValueError(f"mode is {mode!r}; expected 'greedy' or 'sampled'")
    group = min(num_envs or num_episodes, num_episodes)
    scores: list[float] = []

    def store(number: int, rows: dict[str, Any]) -> None:
        writer.add_episode(rows, checkpoint=checkpoint, number=number)
        scores.append(float(rows["reward"].sum()))
        if on_episode is not None:
            on_episode(scores[-1])

    there = writer.numbers(checkpoint)
    for start in range(0, num_episodes, group):
        size = min(group, num_episodes - start)
        wanted = torch.tensor([start + i not in there for i in range(size)])
        if not wanted.any():
            continue
        _seed_policy(policy, seed, start, int((~wanted).sum()))
        # All environments are made, so that each has the seed it would have had in one go.
        env = make_env(task, size, seed=seed + start, episodic_life=False, **(env_kwargs or {}))
        try:
            with torch.no_grad(), set_exploration_type(EXPLORATION[mode]), evaluating(policy):
                _play(policy, env, wanted, max_steps, lambda i, rows, start=start: store(start + i, rows))  # type: ignore[misc]
        finally:
            env.close(raise_if_closed=False)
    return scores


def _seed_policy(policy: Policy, *names: int) -> None:
    generator = getattr(policy, "generator", None)
    if isinstance(generator, torch.Generator):
        generator.manual_seed(derive_seed(0, "collect episodes", *names))


class _Episode:
    """Rows of one episode as it is played."""

    def __init__(self, frame_shape: tuple[int, ...]) -> None:
        self._frames = CompressedFrames(frame_shape)
        self._rows: dict[str, list[Any]] = {
            name: [] for name in ("action", "reward", "terminated", "truncated")
        }

    def add(self, frame: np.ndarray, **row: Any) -> None:
        self._frames.add(frame[None])
        for name, values in self._rows.items():
            values.append(row.get(name, 0))

    def rows(self, final_frame: np.ndarray) -> dict[str, Any]:
        """All rows ``[T + 1]``, with the final observation."""
        self.add(final_frame)
        return {"pixels": self._frames, **{name: np.array(values) for name, values in self._rows.items()}}


def _play(
    policy: Policy,
    env: EnvBase,
    active: torch.Tensor,
    max_steps: int,
    on_end: Callable[[int, dict[str, Any]], None],
) -> None:
    """Play the first episode of each active environment; each is handed on as it ends."""
    current = env.reset()
    episodes = {i: _Episode(current["pixels"].shape[1:]) for i in active.nonzero().squeeze(-1).tolist()}
    active = active.clone()
    for step in range(max_steps):
        current = act_unfinished(policy, current, active)
        frames = current["pixels"].cpu().numpy()
        stepped, following = env.step_and_maybe_reset(current)
        outcome = stepped["next"].cpu()
        reward, terminated = outcome["reward"].squeeze(-1), outcome["terminated"].squeeze(-1)
        done = outcome["done"].squeeze(-1) | (step + 1 == max_steps)
        row = {"action": current["action"], "reward": reward, "terminated": terminated}
        plain = {name: values.tolist() for name, values in (row | {"truncated": done & ~terminated}).items()}
        for i in active.nonzero().squeeze(-1).tolist():
            episodes[i].add(frames[i], **{name: values[i] for name, values in plain.items()})
            if done[i]:
                on_end(i, episodes.pop(i).rows(outcome["pixels"][i].numpy()))
        active &= ~done
        if not active.any():
            return
        current = following
