"""Gumbel MuZero: sequential halving at the root, a deterministic improved policy below it.

Danihelka et al., "Policy improvement by planning with Gumbel", ICLR 2022.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from xtra_rl.search.tree import SearchTree

LOWEST_SCORE = -1e9


@dataclass(frozen=True, eq=False)
class GumbelRule:
    """Scores actions as Gumbel MuZero does.

    Args:
        gumbel: ``[B, A]`` Gumbel noise of the roots; zeros for none.
        considered_visits: ``[B, num_simulations]``: before a simulation, only root actions with that many
            visits are considered; see :func:`considered_visits`.
        value_scale: factor of the transformed Q values, c_scale.
        maxvisit_init: visits added to the largest visit count in that transformation, c_visit.
        rescale_floor: smallest range of Q values that is stretched to [0, 1].
    """

    gumbel: Tensor
    considered_visits: Tensor
    value_scale: float = 0.1
    maxvisit_init: float = 50.0
    rescale_floor: float = 1e-8

    def scores(self, tree: SearchTree, num_nodes: int) -> Tensor:
        """Scores of all actions of the first ``num_nodes`` nodes, ``[B, num_nodes, A]``."""
        completed = self.completed_qvalues(tree, num_nodes)
        # Section 5: visit frequencies below the root approach softmax(logits + completed Q).
        scores = (tree.children_prior_logits[:, :num_nodes] + completed).softmax(dim=-1)
        scores -= tree.children_visits[:, :num_nodes] / tree.node_visits[:, :num_nodes, None]
        considered = self.considered_visits[:, num_nodes - 1 : num_nodes]
        scores[:, SearchTree.ROOT] = self.root_scores(tree, completed[:, SearchTree.ROOT], considered)
        return scores

    def root_scores(self, tree: SearchTree, completed: Tensor, considered: Tensor) -> Tensor:
        """Scores of the root actions; -inf for those whose visit count is not ``considered``, ``[B, A]``.

        Args:
            tree: the tree.
            completed: ``[B, A]`` completed Q values of the roots.
            considered: ``[B, 1]`` visit count of the considered actions.
        """
        logits = tree.children_prior_logits[:, SearchTree.ROOT]
        scores = self.gumbel + (logits - logits.amax(dim=-1, keepdim=True)) + completed
        dropped = tree.children_visits[:, SearchTree.ROOT] != considered
        return scores.clamp_(min=LOWEST_SCORE).masked_fill_(dropped, -math.inf)

    def completed_qvalues(self, tree: SearchTree, num_nodes: int) -> Tensor:
        r"""Monotonic transform :math:`\sigma` of Q values, ``[B, num_nodes, A]``.

        .. math:: \sigma(q) = (c_{visit} + \max_b N(b))\, c_{scale}\, q

        with q rescaled to [0, 1] in each node; unvisited actions get the mixed value of :func:`mixed_values`.
        """
        visits = tree.children_visits[:, :num_nodes]
        unvisited = 1 - visits.clamp(max=1)
        mixed = mixed_values(tree, num_nodes)
        completed = torch.addcmul(tree.children_qvalues[:, :num_nodes], unvisited, mixed.unsqueeze(-1))
        low, high = torch.aminmax(completed, dim=-1, keepdim=True)
        scale = (visits.amax(dim=-1, keepdim=True) + self.maxvisit_init) * self.value_scale
        scale /= (high - low).clamp_(min=self.rescale_floor)
        return completed.sub_(low).mul_(scale)


def mixed_values(tree: SearchTree, num_nodes: int) -> Tensor:
    """Network value mixed with the prior-weighted Q of visited actions, appendix D, ``[B, num_nodes]``."""
    visits = tree.children_visits[:, :num_nodes]
    # A visited action whose prior underflows to 0 must not make 0 / 0.
    prior = tree.children_prior[:, :num_nodes].clamp(min=torch.finfo(visits.dtype).tiny)
    weight = (prior * visits.clamp(max=1)).sum(dim=-1).clamp_(min=torch.finfo(visits.dtype).tiny)
    mean = (prior * tree.children_qvalues[:, :num_nodes]).sum(dim=-1).div_(weight)
    node_visits = tree.node_visits[:, :num_nodes]
    return torch.addcmul(tree.node_raw_values[:, :num_nodes], node_visits - 1, mean).div_(node_visits)


def considered_visits(num_considered: int, num_simulations: int) -> list[int]:
    """Visit count that an action needs to be considered in each simulation of sequential halving.

    Every phase spends about ``num_simulations / log2(num_considered)`` simulations evenly on the considered
    actions and then keeps the better half of them, but at least two. Karnin et al., ICML 2013.

    Example:
        >>> considered_visits(4, 8)
        [0, 0, 0, 0, 1, 1, 2, 2]
    """
    if num_considered <= 1:
        return list(range(num_simulations))
    num_phases = math.ceil(math.log2(num_considered))
    sequence: list[int] = []
    visits = 0
    while len(sequence) < num_simulations:
        for _ in range(max(1, num_simulations // (num_phases * num_considered))):
            sequence += [visits] * num_considered
            visits += 1
        num_considered = max(2, num_considered // 2)
    return sequence[:num_simulations]
