"""A world model and an environment over the tables of one world, for tests of the planners."""

from __future__ import annotations

import torch
from table_world import random_world
from tensordict import TensorDict
from torch import nn
from torchrl.data import Binary, Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from xtra_rl.search import InitialOutput

NUM_ACTIONS, NUM_STATES = 5, 24
LEGAL = torch.tensor([True, False, True, True, False])


class TableModel(nn.Module):
    """World model over the tables of a world; an observation is the state's number in each entry."""

    num_actions = NUM_ACTIONS
    value_prefix_horizon = None

    def __init__(self, seed: int = 0):
        super().__init__()
        self.world, _ = random_world(
            seed, num_states=NUM_STATES, num_actions=NUM_ACTIONS, dtype=torch.float32
        )
        self.scale = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.9)
        self.frozen = nn.BatchNorm1d(1).eval()
        self.batch_sizes: list[int] = []

    def initial_inference(self, observation):
        self.batch_sizes.append(len(observation))
        state = observation.flatten(1)[:, 0].long()
        value = self.dropout(self.world.value[state] * self.scale)
        return InitialOutput(
            self.world.prior_logits[state], value, TensorDict({"state": state}, [len(state)])
        )

    def recurrent_inference(self, action, embedding):
        output, state = self.world.step(action, embedding["state"])
        output = output._replace(value=self.dropout(output.value * self.scale))
        return output, TensorDict({"state": state}, [len(state)])


class TableEnv(EnvBase):
    """``num_envs`` walks through the same tables, with the keys of an Atari environment."""

    def __init__(self, num_envs: int = 3):
        super().__init__(batch_size=[num_envs])
        self.world = TableModel().world
        shape = (num_envs,)
        self.observation_spec = Composite(
            observation=Bounded(0, 255, (*shape, 1, 2, 2), dtype=torch.uint8),
            action_mask=Binary(NUM_ACTIONS, (*shape, NUM_ACTIONS), dtype=torch.bool),
            shape=shape,
        )
        self.action_spec = Categorical(NUM_ACTIONS, shape=shape)
        self.reward_spec = Unbounded((*shape, 1))
        self.done_spec = Categorical(2, shape=(*shape, 1), dtype=torch.bool)
        self.state = torch.zeros(shape, dtype=torch.int64)

    def _observe(self):
        return {
            "observation": self.state.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).clone(),
            "action_mask": LEGAL.expand(*self.batch_size, -1).clone(),
        }

    def _reset(self, tensordict=None, **kwargs):
        self.state = torch.arange(self.batch_size[0])
        done = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        return TensorDict({**self._observe(), "done": done, "terminated": done.clone()}, self.batch_size)

    def _step(self, tensordict):
        action = tensordict["action"]
        reward = self.world.reward[self.state, action].unsqueeze(-1)
        self.state = self.world.next_state[self.state, action]
        done = torch.zeros(*self.batch_size, 1, dtype=torch.bool)
        return TensorDict(
            {**self._observe(), "reward": reward, "done": done, "terminated": done.clone()}, self.batch_size
        )

    def _set_seed(self, seed):
        pass
