"""The planner as a policy in TorchRL's own Collector and Evaluator, over a model of one's own: CartPole's physics.

A planner asks a model what a root looks like and what an action leads to. This one answers with CartPole's equations,
so nothing is learnt: what differs is how far the search looks. ``LegalActions`` adds the mask that a planner reads.

    python recipes/examples/planner_policy.py

Prints the mean return of 10 games of at most 500 steps, for random play and for searches of growing size, and what a
batch of the collector holds. 25 s of one core.
"""

import math

from xtra_rl.command_line import ArgumentParser
from xtra_rl.envs import LegalActions
from xtra_rl.evaluation.baselines import RandomPolicy
from xtra_rl.search import Embedding, GumbelMCTSPlanner, InitialOutput, RecurrentOutput

import torch
from torch import Tensor
from torchrl.collectors import Collector, Evaluator
from torchrl.envs import EnvBase, GymEnv, SerialEnv, TransformedEnv

ANGLE, PLACE = 12 * math.pi / 180, 2.4
DISCOUNT = 0.97


class CartPolePhysics:
    """The equations of gymnasium's CartPole-v1 for a batch of states ``[B, 4]``: place, speed, angle, angular speed."""

    num_actions = 2
    value_prefix_horizon = None

    def initial_inference(self, observation: Tensor) -> InitialOutput:
        zeros = torch.zeros(len(observation), 2)
        return InitialOutput(zeros, self.value(observation), observation)

    def recurrent_inference(self, action: Tensor, embedding: Embedding) -> tuple[RecurrentOutput, Embedding]:
        assert isinstance(embedding, Tensor)
        place, speed, angle, turn = embedding.unbind(-1)
        sine, cosine = angle.sin(), angle.cos()
        push = (20.0 * action - 10.0 + 0.05 * turn.square() * sine) / 1.1
        bend = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine.square() / 1.1))
        gain = torch.stack([speed, push - 0.05 * bend * cosine / 1.1, turn, bend], -1)
        # A state in which the pole has fallen stays as it is.
        after = torch.where(self.stands(embedding)[:, None], embedding + 0.02 * gain, embedding)
        return RecurrentOutput(
            self.stands(embedding).float(), self.value(after), torch.zeros(len(after), 2)
        ), after

    def stands(self, state: Tensor) -> Tensor:
        return (state[:, 2].abs() <= ANGLE) & (state[:, 0].abs() <= PLACE)

    def value(self, state: Tensor) -> Tensor:
        """A guess: the return of standing for ever, less the nearer a limit is."""
        room = (1 - state[:, 2].abs() / ANGLE).clamp(min=0) * (1 - state[:, 0].abs() / PLACE).clamp(min=0)
        return room / (1 - DISCOUNT)


def make_env(num_envs: int, seed: int) -> EnvBase:
    games = SerialEnv(num_envs, lambda: GymEnv("CartPole-v1", categorical_action_encoding=True))
    games.set_seed(seed)
    return TransformedEnv(games, LegalActions(torch.ones(2, dtype=torch.bool)))


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    policies = {"random play": RandomPolicy(torch.Generator().manual_seed(args.seed))}
    for count in args.simulations:
        planner = GumbelMCTSPlanner(
            CartPolePhysics(), num_simulations=count, discount=DISCOUNT, seed=args.seed
        )
        policies[f"{count} simulations"] = planner
    plain = {"auto_register_policy_transforms": False}  # a search needs none
    for name, policy in policies.items():
        games, options = make_env(10, args.seed), {"traj_format": "cat", **plain}
        evaluator = Evaluator(games, policy, num_trajectories=10, max_steps=500, collector_kwargs=options)
        print(f"{name}: {evaluator.evaluate()['eval/reward']:.1f}")
        evaluator.shutdown()

    collector = Collector(make_env(4, args.seed), policy, frames_per_batch=400, total_frames=400, **plain)
    for batch in collector:
        print(f"batch {tuple(batch.shape)}, policy targets {tuple(batch['search', 'policy'].shape)}")
    collector.shutdown()


if __name__ == "__main__":
    main()
