"""Types that cross the border between a search and the model it plans with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

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


class SearchModel(Protocol):
    """What a planner asks of a world model; :class:`~xtra_rl.models.WorldModel` and a model of one's own have it.

    A module of PyTorch is put into eval mode while the planner searches, and its tensors say where the search runs; any
    other object will do, too. One more attribute is read where it is there: ``reset_entries``, names of entries of the
    embedding that the search sets to zero where the LSTM of the value prefix starts anew.

    Example:
        A model of a bandit whose second arm pays 1, in the planner of MuZero:

        >>> from tensordict import TensorDict
        >>> from xtra_rl.search import InitialOutput, MCTSPlanner, RecurrentOutput
        >>> class Bandit:
        ...     num_actions, value_prefix_horizon = 2, None
        ...     def initial_inference(self, observation):
        ...         size = len(observation)
        ...         return InitialOutput(torch.zeros(size, 2), torch.zeros(size), torch.zeros(size, 1))
        ...     def recurrent_inference(self, action, embedding):
        ...         value = torch.zeros(len(action))
        ...         return RecurrentOutput((action == 1).float(), value, torch.zeros(len(action), 2)), embedding
        >>> planner = MCTSPlanner(Bandit(), num_simulations=16, temperature=0)
        >>> roots = {"observation": torch.zeros(3, 1), "action_mask": torch.ones(3, 2, dtype=torch.bool)}
        >>> planner(TensorDict(roots, batch_size=[3]))["action"]
        tensor([1, 1, 1])
    """

    @property
    def num_actions(self) -> int:
        """A, the outputs of the policy head; read only."""

    @property
    def value_prefix_horizon(self) -> int | None:
        """Steps after which the LSTM of the value prefix is reset; None for a model that predicts rewards."""

    def initial_inference(self, observation: Tensor) -> InitialOutput:
        """The roots of ``observation [B, F*C, H, W]``: policy logits ``[B, A]``, value ``[B]``, embedding ``[B, ...]``.

        The value is in units of reward.
        """

    def recurrent_inference(self, action: Tensor, embedding: Embedding) -> tuple[RecurrentOutput, Embedding]:
        """The step of ``action [B]`` int64 from an embedding, and the embedding that it leads to."""


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
