"""Collections that were interrupted go on without playing any game again."""

from __future__ import annotations

import pytest
import torch
from gridworld import make_gridworld

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.collect import collect_episodes
from xtra_rl.envs import register_task, unregister_task
from xtra_rl.evaluation.baselines import RandomPolicy

EPISODES = 24


@pytest.fixture(autouse=True)
def grid():
    register_task("collect_grid", make_gridworld, num_actions=5, action_ids=(0, 1, 2, 3))
    yield
    unregister_task("collect_grid")


class Killed(Exception):
    """Stands for a kill after an episode was stored."""


def collect(path, lives):
    """Collect with a new policy of the same seed; dies after ``lives`` episodes."""

    def on_episode(score):
        nonlocal lives
        lives -= 1
        if lives == 0:
            raise Killed

    policy = RandomPolicy(torch.Generator().manual_seed(0))
    with TrajectoryWriter(path, "collect_grid", frame_shape=(1, 24, 24)) as writer:
        collect_episodes(
            policy,
            "collect_grid",
            writer,
            num_episodes=EPISODES,
            max_steps=30,
            num_envs=8,
            on_episode=on_episode,
        )


@pytest.mark.parametrize("lives", [3, 8, 11])
def test_a_sampling_policy_never_plays_a_game_twice(tmp_path, lives):
    for _ in range(EPISODES):
        try:
            collect(tmp_path, lives)
        except Killed:
            continue
        break
    dataset = TrajectoryDataset(tmp_path)
    assert sorted(dataset.episodes["number"].tolist()) == list(range(EPISODES))
    beginnings = {tuple(rows["action"][:12].tolist()) for rows in dataset}
    assert len(beginnings) == EPISODES


def test_a_collection_is_reproduced_by_its_seeds(tmp_path):
    for name in "ab":
        collect(tmp_path / name, lives=1000)
    first, second = (TrajectoryDataset(tmp_path / name) for name in "ab")
    assert first.fingerprint == second.fingerprint


def test_a_module_acts_in_eval_mode_and_gets_its_own_mode_back(tmp_path):
    class Policy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(1)

        def forward(self, td):
            self.norm(td["pixels"].float().mean((1, 2, 3)).unsqueeze(1))
            return td.set("action", td["action_mask"].int().argmax(-1))

    policy = Policy()
    with TrajectoryWriter(tmp_path, "collect_grid", frame_shape=(1, 24, 24)) as writer:
        collect_episodes(policy, "collect_grid", writer, num_episodes=2, max_steps=5)
    assert policy.norm.num_batches_tracked == 0
    assert policy.norm.training
