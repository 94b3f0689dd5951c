"""Learning is shown, not assumed: a pixel gridworld with a known optimum, by the recipe's own code."""

from __future__ import annotations

import pytest
from gridworld import make_gridworld, optimal_return, random_policy_statistics

from xtra_rl.envs import register_task, unregister_task
from xtra_rl.evaluation.figures import read_metrics
from xtra_rl.recipes.xtra_finetune import xtra_finetune

GRIDWORLD = (
    "scale=smoke", "target=gridworld", "pretrained=false", "cross_task=false", "num_envs=16",
    "env.image_size=24", "env.grayscale=true", "env.frame_stack=1",
    "model.channels=16", "model.stem=patch", "model.downsample=4", "model.reduced_channels=8", "model.head_hidden=32",
    "model.lstm_hidden=32", "model.support_size=5", "model.projection_hidden=64", "model.projection_out=64",
    "model.predictor_hidden=32", "model.action_encoding=embedding",
    "search.num_simulations=8", "search.discount=0.9", "search.rescale_floor=0.1",
    "targets.unroll_steps=3", "targets.td_steps=3", "targets.age_interval=null", "target_interval=20",
    "augmentation=false", "replay.capacity=20000", "batch_size=64", "optim.warmup_steps=20", "optim.lr=0.002",
    "finetune.env_steps=12000", "finetune.warmup_steps=320", "finetune.replay_ratio=0.25",
    "finetune.extra_train_steps=0", "eval.every=6000", "eval.episodes=200", "eval.num_envs=200", "eval.max_steps=20",
    "eval.modes=[greedy]", "eval.baselines=[random]", "eval.video_steps=20", "log_every=50",
)  # fmt: skip


@pytest.fixture
def gridworld():
    random_return = random_policy_statistics()[0]
    register_task(
        "gridworld",
        make_gridworld,
        num_actions=5,
        action_ids=(0, 1, 2, 3),
        random_score=random_return,
        human_score=optimal_return(),
    )
    yield random_return
    unregister_task("gridworld")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.thorough)])
def test_gridworld_is_solved_from_scratch(config, tmp_path, gridworld, seed):
    run = xtra_finetune(config("xtra_finetune", *GRIDWORLD, f"run_dir={tmp_path}", f"seed={seed}"))
    scores = read_metrics(run)["eval/gridworld/return"].value
    # An untrained greedy agent walks into walls: below random play, which reaches the goal in a quarter of its games.
    assert scores[0] < gridworld + 0.1
    assert scores[-1] > 0.9 * optimal_return()
