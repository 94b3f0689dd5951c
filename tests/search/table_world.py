"""Small deterministic worlds as models for search tests: a latent state is a row of a table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict

from xtra_rl.search import RecurrentOutput


@dataclass
class TableWorld:
    """From state ``s``, action ``a`` pays ``reward[s, a]`` and leads to ``next_state[s, a]``."""

    prior_logits: torch.Tensor  # [M, A]
    value: torch.Tensor  # [M]
    reward: torch.Tensor  # [M, A]
    next_state: torch.Tensor  # [M, A] int64

    def roots(self, state: torch.Tensor) -> tuple:
        """First four arguments of a search from these states."""
        return self.prior_logits[state], self.value[state], state, self.step

    def step(self, action, state):
        nxt = self.next_state[state, action]
        return RecurrentOutput(self.reward[state, action], self.value[nxt], self.prior_logits[nxt]), nxt

    def prefix_roots(self, state: torch.Tensor, horizon: int) -> tuple:
        """As ``roots``, but the model returns value prefixes, and its LSTM is reset every ``horizon`` steps.

        The sum in the embedding stands for the LSTM: it is cleared in a node whose depth is divisible by the
        horizon, after the node's own prefix was read.
        """
        embedding = TensorDict(
            {
                "state": state,
                "depth": torch.zeros_like(state),
                "lstm": {"sum": torch.zeros_like(self.value[state])},
            },
            batch_size=state.shape,
        )

        def step(action, embedding):
            output, nxt = self.step(action, embedding["state"])
            prefix = embedding["lstm", "sum"] + output.reward
            depth = embedding["depth"] + 1
            kept = prefix.masked_fill(depth % horizon == 0, 0)
            following = TensorDict(
                {"state": nxt, "depth": depth, "lstm": {"sum": kept}}, batch_size=nxt.shape
            )
            return output._replace(reward=prefix), following

        return self.prior_logits[state], self.value[state], embedding, step


def random_world(
    seed: int, *, num_states: int = 24, num_actions: int = 3, dtype: torch.dtype = torch.float64
) -> tuple[TableWorld, torch.Generator]:
    """World whose values and rewards are multiples of 1/8, so that sums and halves of them are exact."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_states, num_actions)
    world = TableWorld(
        prior_logits=2 * torch.randn(shape, generator=generator, dtype=dtype),
        value=torch.randint(-8, 9, (num_states,), generator=generator).to(dtype) / 8,
        reward=torch.randint(-8, 9, shape, generator=generator).to(dtype) / 8,
        next_state=torch.randint(num_states, shape, generator=generator),
    )
    return world, generator


def random_mask(batch: int, num_actions: int, generator: torch.Generator) -> torch.Tensor:
    """Illegal actions ``[batch, num_actions]``, with at least one legal action in each row."""
    invalid = torch.rand(batch, num_actions, generator=generator) < 0.4
    keep = torch.randint(num_actions, (batch, 1), generator=generator)
    return invalid.scatter(1, keep, False)
