"""Games played again to see where another action brings another frame, on a real game."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.collect import collect_episodes
from xtra_rl.envs import make_env
from xtra_rl.evaluation.baselines import RandomPolicy
from xtra_rl.evaluation.counterfactuals import other_frames

ENV = {"image_size": 48, "grayscale": True}
ROUNDS = {"num_envs": 2, "seed": 5, "env_kwargs": ENV}
STEPS = 60


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    """Three games of Pong in rounds of two, with random actions: the third is played in a round of its own."""
    path = tmp_path_factory.mktemp("games") / "pong"
    policy = RandomPolicy(torch.Generator().manual_seed(0))
    with TrajectoryWriter(path, "pong", frame_shape=(1, 48, 48), grayscale=True) as writer:
        collect_episodes(policy, "pong", writer, num_episodes=3, max_steps=STEPS, mode="sampled", **ROUNDS)
    return TrajectoryDataset(path)


def rows_of(games, steps):
    """Those steps of every game."""
    return np.concatenate([games.episodes["first_row"][game] + np.array(steps) for game in range(3)])


def test_the_action_that_was_taken_brings_the_frame_that_came(games):
    rows = rows_of(games, [0, 1, 20, STEPS - 1])
    told = []
    found = other_frames(games, rows, games.table("action")[rows], on_positions=told.append, **ROUNDS)
    assert found.tolist() == [0.0] * 12
    assert sum(told) == 12


def test_other_actions_are_those_of_an_emulator_that_takes_them(games):
    rows = rows_of(games, [1, 5, 38, 50])
    other = np.tile([2, 3, 4, 5], 3)
    expected = []
    for row, action in zip(rows, other, strict=True):
        game, step = divmod(int(row), STEPS + 1)
        # Games 0 and 1 are of one round; a copy's stream does not depend on how many there are.
        copy, seed = (game, 5) if game < 2 else (0, 7)
        env = make_env("pong", 2, seed=seed, episodic_life=False, **ENV)
        state = env.reset()
        for taken in [*games.read(game, "action", 0, step).tolist(), int(action)]:
            stepped, state = env.step_and_maybe_reset(state.set("action", torch.tensor([taken] * 2)))
        env.close()
        came = games.read(game, "pixels", step + 1, step + 2)[0]
        expected.append(float(not torch.equal(stepped["next", "pixels"][copy], came)))
    assert set(expected) == {0.0, 1.0}
    assert other_frames(games, rows, other, **ROUNDS).tolist() == expected


def test_games_that_do_not_come_again_say_nothing(games):
    rows = rows_of(games, [30])
    found = other_frames(games, rows, np.zeros(3), **(ROUNDS | {"seed": 6}))
    assert np.isnan(found).all()
