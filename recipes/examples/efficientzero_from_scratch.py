"""EfficientZero on one Atari game in one file, from components: no configuration files, no run directory.

The loop acts, searches, keeps what happened, searches stored positions again and learns. Sizes are those that learn on
one CPU core (a vector as latent, 64x64 grey frames without their background, 8 simulations); the published network is
``make_world_model()`` as it stands. ``recipes/xtra_finetune.py`` adds checkpoints, logs and cross tasks to this.

    python recipes/examples/efficientzero_from_scratch.py

Prints the mean score of the games that ended in every 1,000 env steps, then of 16 games of at most 800 env steps.
10 min of two cores.
"""

from functools import partial
from typing import Any

from xtra_rl.command_line import ArgumentParser
from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer
from xtra_rl.envs import get_task, make_env
from xtra_rl.evaluation.baselines import RandomPolicy, best_constant_action
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

import torch

FRAMES: dict[str, Any] = {"image_size": 64, "grayscale": True, "subtract_background": True, "num_threads": 1}


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--game", default="ms_pacman")
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    model = make_world_model(
        latent="vector", value_prefix=False, image_size=64, image_channels=1, channels=32, head_hidden=128,
        support_size=20, projection_hidden=256, projection_out=256, predictor_hidden=128,
    )  # fmt: skip
    target = LaggingTarget(model, interval=100, lag=False)
    search = partial(
        GumbelMCTSPlanner, num_simulations=8, max_num_considered_actions=4, discount=0.98, rescale_floor=0.5,
        root_logit_scale=0.9,
    )  # fmt: skip
    planner = search(InferenceModel(model), seed=args.seed)
    replay = TrajectoryReplayBuffer(50_000, num_envs=8, memmap=False, seed=args.seed)
    actor = Actor(make_env(args.game, 8, seed=args.seed, **FRAMES), planner, replay)

    again = search(InferenceModel(target.module), seed=args.seed + 1)
    mask = get_task(args.game).action_mask
    targets = ReanalyzeTargets(again, mask, unroll_steps=3, td_steps=10, discount=0.98, policy_ratio=0.25)
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

    # Games of their own: those of training start from other seeds.
    score = partial(evaluate, task=args.game, num_episodes=16, max_steps=800, seed=1000, env_kwargs=FRAMES)
    constant = best_constant_action(args.game, num_episodes=2, max_steps=800, seed=1000, env_kwargs=FRAMES)
    print(f"random {score(RandomPolicy(torch.Generator().manual_seed(args.seed))).mean_return:.0f}")
    print(f"best constant action {constant.result.mean_return:.0f}")
    print(f"agent, sampled {score(planner, mode='sampled').mean_return:.0f}")
    print(f"agent, greedy {score(planner).mean_return:.0f}")


if __name__ == "__main__":
    main()
