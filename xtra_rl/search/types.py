"""Types that cross the border between a search and the model it plans with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tensordict import TensorDictBase
from torch import Tensor

if TYPE_CHECKING:
    from xtra_rl.search.tree import SearchTree

Embedding: TypeAlias = Tensor | TensorDictBase
"""Latent state of ``B`` nodes: a tensor ``[B, ...]`` or a TensorDict with batch size ``[B]``."""


class InitialOutput(NamedTuple):
    """What a world model says about real observations: the roots of a search."""

    prior_logits: Tensor  # [B, A]
    value: Tensor  # [B]
    embedding: Embedding  # [B, ...]


class RecurrentOutput(NamedTuple):
    """What a world model says about the step into a new node.

    ``reward`` is the reward of that step or, in a search with ``value_prefix_horizon``, the value prefix: the
    undiscounted sum of rewards since the LSTM's last reset (EfficientZero, arXiv:2111.00210, section 4.2).
    """

    reward: Tensor  # [B]
    value: Tensor  # [B]
    prior_logits: Tensor  # [B, A]


RecurrentFn: TypeAlias = Callable[[Tensor, Embedding], tuple[RecurrentOutput, Embedding]]
"""``recurrent_fn(action [B] int64, embedding) -> (RecurrentOutput, next_embedding)``."""


class SearchResult(NamedTuple):
    """What a search found out about its ``B`` roots."""

    visit_counts: Tensor
    """``[B, A]`` int64, sums to ``num_simulations`` in each row; 0 for illegal actions."""
    root_value: Tensor
    """``[B]`` mean of the root's network value and of all simulated returns."""
    qvalues: Tensor
    """``[B, A]`` reward plus discounted mean value of each root action; 0 where it was not visited."""
    action_weights: Tensor
    """``[B, A]`` policy target: visit fractions (pUCT) or the improved policy (Gumbel); 0 where illegal."""
    action: Tensor
    """``[B]`` int64: the most visited action (pUCT) or the winner of sequential halving (Gumbel)."""
    depth: Tensor
    """``[B]`` mean depth of the nodes that the search added: 1 = it never looked further than one step."""
    entropy: Tensor
    """``[B]`` entropy of ``action_weights`` in nats."""
    tree: SearchTree | None = None
    """The tree behind the numbers, for inspection; None where several searches were joined."""
