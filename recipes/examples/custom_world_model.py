"""A world model of one's own through the same search and loss: plain layers on CartPole's four numbers.

``WorldModel`` joins any modules: representation, dynamics with a reward head, prediction, and a projection, left out
here with the consistency loss. A state that is no picture travels as ``pixels [N, D, 1, 1]`` float32.

    python recipes/examples/custom_world_model.py

Prints mean returns of 20 games of at most 500 steps: random play, and the agent as it learns. 86 s of one core.
"""

from functools import partial

from xtra_rl.command_line import ArgumentParser
from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer
from xtra_rl.envs import make_env, register_task
from xtra_rl.evaluation.baselines import RandomPolicy
from xtra_rl.evaluation.evaluate import evaluate
from xtra_rl.models import DynamicsModel, Support, WorldModel
from xtra_rl.objectives import LaggingTarget, MuZeroLoss
from xtra_rl.search import GumbelMCTSPlanner
from xtra_rl.targets import ReanalyzeTargets
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.loop import train_online

import torch
from torch import Tensor, nn
from torchrl.envs import Compose, EnvBase, GymEnv, SerialEnv, TransformedEnv, UnsqueezeTransform

BINS = 25


class Net(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inputs, 64), nn.LayerNorm(64), nn.ReLU(), nn.Linear(64, outputs))


class Transition(Net):
    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        return latent + self.net(torch.cat([latent, nn.functional.one_hot(action, 2)], -1))


class Reward(Net):
    def initial_state(self, latent: Tensor) -> None: ...

    def forward(self, latent: Tensor, state: None) -> tuple[Tensor, None]:
        return self.net(latent), None


class Heads(Net):
    num_actions = 2

    def forward(self, latent: Tensor) -> tuple[Tensor, ...]:
        return self.net(latent).split([2, BINS], -1)


def make_cartpole(num_envs: int, seed: int, training: bool) -> EnvBase:
    games = SerialEnv(num_envs, lambda: GymEnv("CartPole-v1", categorical_action_encoding=True))
    games.set_seed(seed)
    steps = [UnsqueezeTransform(-1, in_keys=[key], out_keys=["pixels"]) for key in ("observation", "pixels")]
    return TransformedEnv(games, Compose(*steps))


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    task = register_task("cartpole", make_cartpole, num_actions=2)
    score = partial(evaluate, task="cartpole", num_episodes=20, seed=1000, env_kwargs={"frame_stack": 1})
    print(f"random play: {score(RandomPolicy(torch.Generator().manual_seed(args.seed))).mean_return:.1f}")

    torch.manual_seed(args.seed)
    parts = nn.Sequential(nn.Flatten(), Net(4, 32).net), DynamicsModel(Transition(34, 32), Reward(32, BINS))
    model = WorldModel(*parts, Heads(32, 2 + BINS), support=Support(BINS // 2), value_prefix_horizon=None)
    target = LaggingTarget(model, interval=50, lag=False)
    search = partial(GumbelMCTSPlanner, num_simulations=8, discount=0.98, rescale_floor=1.0)
    planner, again = search(model, seed=args.seed), search(target.module, seed=args.seed + 1)
    replay = TrajectoryReplayBuffer(20_000, num_envs=8, num_actions=2, memmap=False, seed=args.seed)
    actor = Actor(make_env("cartpole", 8, frame_stack=1, seed=args.seed), planner, replay)
    targets = ReanalyzeTargets(
        again, task.action_mask, unroll_steps=5, td_steps=10, discount=0.98, policy_ratio=0.25, frame_stack=1
    )
    source = BatchSource(MultiTaskReplayBuffer({"cartpole": replay}, {"cartpole": 64}), {"cartpole": targets})
    loss, adam = MuZeroLoss(model, consistency_coef=0), torch.optim.AdamW(model.parameters(), lr=0.002)
    learner = Learner(
        loss, adam, tasks=["cartpole"], target=target, lr_factor=lambda update: 0.999**update, frame_stack=1,
        augmentation=False,
    )  # fmt: skip
    steps = train_online(actor, source, learner, env_steps=args.steps, warmup_steps=400, replay_ratio=0.25)
    for now in steps:
        if now.env_steps % 1000 == 0:
            print(f"{now.env_steps} env steps: {score(planner).mean_return:.1f}")


if __name__ == "__main__":
    main()
