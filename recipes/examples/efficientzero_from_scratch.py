"""EfficientZero on one Atari game in one file, from components: no configuration files, no run directory.

The loop acts, searches, keeps what happened, searches stored positions again and learns. Sizes are those that learn on
one CPU core (a vector as latent, 64x64 grey frames without their background, 8 simulations); the published network is
``make_world_model()`` as it stands. ``recipes/xtra_finetune.py`` adds checkpoints, logs and cross tasks to this.

    python recipes/examples/efficientzero_from_scratch.py

Prints the mean score of the games that ended in every 1,000 env steps, then of 16 games of at most 800 env steps.
7 min of one core.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch

from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer
from xtra_rl.envs import get_task, make_env
from xtra_rl.evaluation.baselines import best_constant_action, random_returns
from xtra_rl.evaluation.evaluate import evaluate
from xtra_rl.models import InferenceModel, make_world_model
from xtra_rl.objectives import LaggingTarget, MuZeroLoss
from xtra_rl.search import GumbelMCTSPlanner
from xtra_rl.targets import ReanalyzeTargets
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.loop import train_online
from xtra_rl.training.schedules import make_optimizer, warmup_factor

FRAMES: dict[str, Any] = {"image_size": 64, "grayscale": True, "subtract_background": True, "num_threads": 1}
SEARCH: dict[str, Any] = {"num_simulations": 8, "max_num_considered_actions": 4, "discount": 0.98}
SEARCH |= {"rescale_floor": 0.5, "root_logit_scale": 0.9}
NETWORK: dict[str, Any] = {"latent": "vector", "value_prefix": False, "image_size": 64, "image_channels": 1}
NETWORK |= {"channels": 32, "head_hidden": 128, "support_size": 20}
NETWORK |= {"projection_hidden": 256, "projection_out": 256, "predictor_hidden": 128}
TARGETS: dict[str, Any] = {"unroll_steps": 3, "td_steps": 10, "policy_ratio": 0.25, "discount": 0.98}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--game", default="ms_pacman")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    model = make_world_model(**NETWORK)
    target = LaggingTarget(model, interval=100, lag=False)
    planner = GumbelMCTSPlanner(InferenceModel(model), seed=args.seed, **SEARCH)
    replay = TrajectoryReplayBuffer(50_000, num_envs=8, memmap=False, seed=args.seed)
    actor = Actor(make_env(args.game, 8, seed=args.seed, **FRAMES), planner, replay)

    again = GumbelMCTSPlanner(InferenceModel(target.module), seed=args.seed + 1, **SEARCH)
    targets = ReanalyzeTargets(again, get_task(args.game).action_mask, age_interval=None, **TARGETS)
    source = BatchSource(MultiTaskReplayBuffer({args.game: replay}, {args.game: 64}), {args.game: targets})
    learner = Learner(
        MuZeroLoss(model, value_coef=0.5, joint_statistics=True),
        make_optimizer(model, name="adamw", lr=0.001),
        tasks=[args.game],
        lr_factor=partial(warmup_factor, warmup_steps=100, decay="cosine", decay_steps=args.steps // 4),
        target=target,
        shift=2,
        intensity=0.0,
        generator=torch.Generator().manual_seed(args.seed),
    )
    scores: list[float] = []
    for now in train_online(
        actor, source, learner, env_steps=args.steps, warmup_steps=1000, replay_ratio=0.25
    ):
        scores += now.returns
        if now.env_steps % 1000 == 0:
            print(f"{now.env_steps} env steps, {len(scores)} games: {sum(scores) / max(len(scores), 1):.0f}")
            scores.clear()

    games: dict[str, Any] = {"num_episodes": 16, "max_steps": 800, "env_kwargs": FRAMES}
    print(f"random {random_returns(args.game, **games).mean_return:.0f}")
    print(
        f"best constant action {best_constant_action(args.game, **games | {'num_episodes': 2}).result.mean_return:.0f}"
    )
    print(f"agent, sampled {evaluate(planner, args.game, mode='sampled', **games).mean_return:.0f}")
    print(f"agent, greedy {evaluate(planner, args.game, **games).mean_return:.0f}")


if __name__ == "__main__":
    main()
