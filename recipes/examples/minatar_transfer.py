"""MinAtar (arXiv 1903.03176): pretrain on one game, finetune on another with the first as cross task. No Atari in it.

XTRA in small: one game is learnt by playing it; the other starts from that model and goes on training on the first
one's steps, weighted by how well gradients agree. First: ``pip install -c constraints.txt -e ".[examples]"``

    python recipes/examples/minatar_transfer.py

Prints mean returns of 50 new games of at most 500 steps. It shows how it is done, not that it helps. 8 min of a core.
"""

from functools import partial

from xtra_rl.command_line import ArgumentParser
from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer
from xtra_rl.envs import get_task, make_env, register_task
from xtra_rl.evaluation.baselines import RandomPolicy
from xtra_rl.evaluation.evaluate import evaluate
from xtra_rl.models import InferenceModel, WorldModel, make_world_model
from xtra_rl.objectives import LaggingTarget, MuZeroLoss
from xtra_rl.search import GumbelMCTSPlanner
from xtra_rl.targets import ReanalyzeTargets
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.loop import train_online
from xtra_rl.transfer import TaskWeightScheduler

import numpy as np
import torch
from gymnasium import spaces, wrappers
from minatar.gym import BaseEnv
from torchrl.envs import EnvBase, GymWrapper, SerialEnv

score = partial(evaluate, num_episodes=50, max_steps=500, seed=1000, env_kwargs={"frame_stack": 1})
make_model = partial(
    make_world_model, latent="vector", value_prefix=False, image_size=40, image_channels=10, frame_stack=1,
    num_actions=6, channels=16, latent_features=128, dynamics_hidden=256, support_size=8,
    projection_hidden=128, projection_out=128,
)  # fmt: skip
SPACE = spaces.Dict({"pixels": spaces.Box(0, 255, (10, 40, 40), np.uint8)})


def as_pixels(state: np.ndarray) -> dict[str, np.ndarray]:
    board = np.full((10, 10, 10), 128, np.uint8)
    board[: state.shape[2]][state.transpose(2, 0, 1)] = 255
    return {"pixels": board.repeat(4, 1).repeat(4, 2)}


def make_games(game: str, num_envs: int, seed: int, training: bool) -> EnvBase:
    wrapped = partial(wrappers.TransformObservation, func=as_pixels, observation_space=SPACE)
    games = SerialEnv(num_envs, lambda: GymWrapper(wrapped(BaseEnv(game)), categorical_action_encoding=True))
    games.set_seed(seed)
    return games


def learn(game: str, model: WorldModel, steps: int, seed: int, cross: dict) -> tuple[dict, float]:
    """Play and learn a game, with stored steps of others beside it; returns its own steps and its score."""
    target = LaggingTarget(model, interval=50, lag=False)
    search = partial(GumbelMCTSPlanner, num_simulations=8, discount=0.97, rescale_floor=0.1)
    planner = search(InferenceModel(model), seed=seed)
    again = search(InferenceModel(target.module), seed=seed + 1)
    replay = TrajectoryReplayBuffer(50_000, num_envs=8, num_actions=6, memmap=False, seed=seed)
    buffers = MultiTaskReplayBuffer({game: replay, **cross}, {game: 64} | dict.fromkeys(cross, 32))
    retarget = partial(
        ReanalyzeTargets, again, unroll_steps=3, td_steps=10, discount=0.97, policy_ratio=0.25, frame_stack=1
    )
    targets = {task: retarget(get_task(task).action_mask) for task in buffers.tasks}
    weights = TaskWeightScheduler([*cross], start=50, cycle=200, window=50)
    loss, adam = MuZeroLoss(model), torch.optim.AdamW(model.parameters(), lr=0.001)
    learner = Learner(
        loss, adam, tasks=[*targets], target=target, task_weights=weights, frame_stack=1, augmentation=False
    )
    actor = Actor(make_env(game, 8, frame_stack=1, seed=seed), planner, replay)
    source = BatchSource(buffers, targets)
    for _ in train_online(actor, source, learner, env_steps=steps, warmup_steps=400, replay_ratio=0.25):
        pass
    print(f"{game}, {steps} env steps; weights of cross tasks: {weights.weights}")
    return {game: replay}, score(planner, game).mean_return


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    first, second = "minatar_space_invaders", "minatar_breakout"
    for name in (first, second):
        legal = BaseEnv(game := name.removeprefix("minatar_")).game.minimal_action_set()
        register_task(name, partial(make_games, game), num_actions=6, action_ids=legal)
        print(f"{name}, random play: {score(RandomPolicy(torch.manual_seed(1000)), name).mean_return:.2f}")
    torch.manual_seed(args.seed)
    _, alone = learn(second, make_model(), args.steps, args.seed, {})
    stored, before = learn(first, model := make_model(), args.steps, args.seed, {})
    _, transferred = learn(second, model, args.steps, args.seed, stored)
    print(f"{first} {before:.2f}; then, with it, {second} {transferred:.2f}; from scratch {alone:.2f}")


if __name__ == "__main__":
    main()
