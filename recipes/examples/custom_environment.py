"""A gymnasium environment of pixels as a task, learnt by EfficientZero's components: Catch.

A ball falls through a board of 5 x 5 cells; a paddle in the last row earns 1 if it is there, and -1 if not (bsuite,
arXiv 1908.03568). Its actions are left, stay and right.
``register_task`` makes it a task like any Atari game: all that takes a game's name takes this one.

    python recipes/examples/custom_environment.py

Prints the mean return of 100 games for random play and for the agent as it learns; 1 is perfect. 2 min of one core.
"""

from functools import partial

from xtra_rl.command_line import ArgumentParser
from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer
from xtra_rl.envs import make_env, register_task
from xtra_rl.evaluation.baselines import RandomPolicy
from xtra_rl.evaluation.evaluate import evaluate
from xtra_rl.models import InferenceModel, make_world_model
from xtra_rl.objectives import LaggingTarget, MuZeroLoss
from xtra_rl.search import GumbelMCTSPlanner
from xtra_rl.targets import ReanalyzeTargets
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.loop import train_online

import numpy as np
import torch
from gymnasium import Env, spaces
from torchrl.envs import EnvBase, GymWrapper, SerialEnv

CELLS, SIZE = 5, 40


class Catch(Env):
    observation_space = spaces.Dict({"pixels": spaces.Box(0, 255, (1, SIZE, SIZE), np.uint8)})
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.row, self.ball, self.paddle = 0, int(self.np_random.integers(CELLS)), CELLS // 2
        return self.observe(), {}

    def step(self, action: int) -> tuple[dict, float, bool, bool, dict]:
        self.row, self.paddle = self.row + 1, min(max(self.paddle + int(action) - 1, 0), CELLS - 1)
        over = self.row == CELLS - 1
        return self.observe(), over * (1.0 if self.ball == self.paddle else -1.0), over, False, {}

    def observe(self) -> dict[str, np.ndarray]:
        board = np.full((1, CELLS, CELLS), 128, np.uint8)
        board[0, -1, self.paddle], board[0, self.row, self.ball] = 0, 255
        return {"pixels": board.repeat(SIZE // CELLS, 1).repeat(SIZE // CELLS, 2)}


def make_catch(num_envs: int, seed: int, training: bool) -> EnvBase:
    games = SerialEnv(num_envs, lambda: GymWrapper(Catch(), categorical_action_encoding=True))
    games.set_seed(seed)
    return games


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4800)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    task = register_task("catch", make_catch, num_actions=3)
    # Games of their own: those of training start from other seeds.
    score = partial(evaluate, task="catch", num_episodes=100, seed=1000, env_kwargs={"frame_stack": 1})
    print(f"random play: {score(RandomPolicy(torch.Generator().manual_seed(args.seed))).mean_return:.2f}")

    torch.manual_seed(args.seed)
    model = make_world_model(
        latent="vector", value_prefix=False, image_size=SIZE, image_channels=1, frame_stack=1, num_actions=3,
        channels=16, latent_features=64, dynamics_hidden=128, head_hidden=64, support_size=5,
        projection_hidden=64, projection_out=64,
    )  # fmt: skip
    target = LaggingTarget(model, interval=20, lag=False)
    search = partial(GumbelMCTSPlanner, num_simulations=8, discount=0.95, rescale_floor=0.1)
    planner = search(InferenceModel(model), seed=args.seed)
    again = search(InferenceModel(target.module), seed=args.seed + 1)
    replay = TrajectoryReplayBuffer(20_000, num_envs=8, num_actions=3, memmap=False, seed=args.seed)
    actor = Actor(make_env("catch", 8, frame_stack=1, seed=args.seed), planner, replay)
    targets = ReanalyzeTargets(
        again, task.action_mask, unroll_steps=3, td_steps=5, discount=0.95, policy_ratio=0.5, frame_stack=1
    )
    source = BatchSource(MultiTaskReplayBuffer({"catch": replay}, {"catch": 64}), {"catch": targets})
    loss, adam = MuZeroLoss(model), torch.optim.AdamW(model.parameters(), lr=0.002)
    learner = Learner(loss, adam, tasks=["catch"], target=target, frame_stack=1, augmentation=False)
    steps = train_online(actor, source, learner, env_steps=args.steps, warmup_steps=320, replay_ratio=0.25)
    for now in steps:
        if now.env_steps % 800 == 0:
            print(f"{now.env_steps} env steps: {score(planner).mean_return:.2f}")


if __name__ == "__main__":
    main()
