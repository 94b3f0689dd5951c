"""Where would another action have brought another frame? Games played again up to there give the emulator's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torchrl.envs import EnvBase

from xtra_rl.data.trajectories import TrajectoryDataset


def other_frames(
    dataset: TrajectoryDataset,
    rows: ArrayLike,
    other: ArrayLike,
    *,
    num_envs: int,
    seed: int,
    env_kwargs: Mapping[str, Any] | None = None,
    on_positions: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Whether the next frame is another one if another action is taken, ``[N]``: 1, 0, or NaN where it is not known.

    A world model can tell two actions apart only where they differ: in a corridor of a maze most do the same. The
    games are played again from their seeds, with the actions that were taken up to the position. A position is not
    known if its frame is not the stored one there, since the environment does not repeat itself. A pass plays all
    games of a round once and asks at one position of each.

    Args:
        dataset: all games of one :func:`~xtra_rl.data.collect.collect_episodes`.
        rows: ``[N]`` the positions, as rows of the dataset.
        other: ``[N]`` the other action of each.
        num_envs: of that collection, also ``seed`` and ``env_kwargs``.
        seed: see there.
        env_kwargs: see there.
        on_positions: told how many positions a pass has answered.

    Example:
        >>> import tempfile
        >>> from xtra_rl.data import TrajectoryWriter
        >>> from xtra_rl.data.collect import collect_episodes
        >>> path, env = f"{tempfile.mkdtemp()}/freeway", {"image_size": 48, "grayscale": True}
        >>> def wait(observations):
        ...     return observations.set("action", torch.zeros(len(observations), dtype=torch.int64))
        >>> with TrajectoryWriter(path, "freeway", frame_shape=(1, 48, 48), grayscale=True) as writer:
        ...     _ = collect_episodes(wait, "freeway", writer, num_episodes=1, max_steps=40, seed=3, env_kwargs=env)
        >>> games, fire, up = TrajectoryDataset(path), 1, 2  # only one of them moves the chicken
        >>> other_frames(games, [38, 38], [fire, up], num_envs=1, seed=3, env_kwargs=env)
        array([0., 1.])
    """
    from xtra_rl.envs import make_env

    rows, other = np.asarray(rows), np.asarray(other)
    first_row, number = dataset.episodes["first_row"], dataset.episodes["number"]
    game = dataset.frames.episode_of(rows)
    step = rows - first_row[game]
    differs = np.full(len(rows), np.nan)
    last = int(number.max()) + 1
    for start in range(0, last, num_envs):
        inside = (number[game] >= start) & (number[game] < start + num_envs)
        # The latest first: then passes get shorter and shorter.
        waiting: dict[int, list[int]] = {}
        for place in sorted(inside.nonzero()[0].tolist(), key=lambda place: step[place]):
            waiting.setdefault(int(number[game[place]]) - start, []).append(place)
        if not waiting:
            continue
        size = min(num_envs, last - start)
        env = make_env(dataset.task, size, seed=seed + start, episodic_life=False, **(env_kwargs or {}))
        try:
            while any(waiting.values()):
                asked = {copy: places.pop() for copy, places in waiting.items() if places}
                env.set_seed(seed + start)
                found = _pass(env, dataset, {copy: (game[p], step[p], other[p]) for copy, p in asked.items()})
                for copy, place in asked.items():
                    differs[place] = found[copy]
                if on_positions is not None:
                    on_positions(len(asked))
        finally:
            env.close(raise_if_closed=False)
    return differs


def _pass(
    env: EnvBase, dataset: TrajectoryDataset, asked: Mapping[int, tuple[int, int, int]]
) -> dict[int, float]:
    """Play from the start to each copy's position and take its other action there."""
    current = env.reset()
    num_steps = 1 + max(step for _, step, _ in asked.values())
    # Copies that were not asked, and games beyond their position, do anything legal.
    legal = current["action_mask"].int().argmax(-1)
    actions = legal.unsqueeze(1).repeat(1, num_steps)
    for copy, (game, step, other) in asked.items():
        actions[copy, :step] = dataset.read(int(game), "action", 0, int(step)).long()
        actions[copy, step] = int(other)
    found = {}
    for t in range(num_steps):
        following, current = env.step_and_maybe_reset(current.set("action", actions[:, t]))
        for copy, (game, step, _) in asked.items():
            if step == t:
                before, after = dataset.read(int(game), "pixels", int(step), int(step) + 2)
                same = torch.equal(following["pixels"][copy], before)
                differs = not torch.equal(following["next", "pixels"][copy], after)
                found[copy] = float(differs) if same else float("nan")
    return found
