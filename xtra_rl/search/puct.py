"""The pUCT rule of MuZero: how a node's actions are scored in the search of EfficientZero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xtra_rl.search.tree import SearchTree

QNormalization = Literal["tree", "siblings"]

#: Smallest range of Q values that "siblings" stretches to [0, 1]; mctx's.
SIBLING_RANGE_FLOOR = 1e-8


@dataclass(frozen=True)
class PuctRule:
    r"""Scores actions by pUCT.

    .. math:: \hat Q(s, a) + P(s, a) \frac{\sqrt{N(s)}}{1 + N(s, a)}
              \left(c_1 + \log\frac{N(s) + c_2 + 1}{c_2}\right)

    MuZero (arXiv:1911.08265), appendix B. ``N(s)`` counts the node's own expansion, so the prior decides the
    first choice in a new node. Differs from EfficientZero's code, where ``N(s)`` is 0 then and the first
    choice is random.

    Args:
        pb_c_init: c_1.
        pb_c_base: c_2.
        q_normalization: which values bring Q to [0, 1]: those of the whole tree (MuZero, EfficientZero) or
            those of the parent and siblings (mctx).
        value_delta_max: smallest value range that "tree" stretches to [0, 1].

    Example:
        Scores of the root of a finished search, here of a model that knows nothing:

        >>> from xtra_rl.search import RecurrentOutput, puct_search
        >>> def step(action, embedding):
        ...     return RecurrentOutput(torch.zeros(1), torch.zeros(1), torch.zeros(1, 2)), embedding
        >>> roots = torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 3)
        >>> tree = puct_search(*roots, step, num_simulations=4, backend="reference").tree
        >>> PuctRule(pb_c_init=1.0).scores(tree, tree.num_nodes)[0, tree.ROOT]
        tensor([0.3728, 0.3728])
    """

    pb_c_init: float = 1.25
    pb_c_base: float = 19652.0
    q_normalization: QNormalization = "tree"
    value_delta_max: float = 0.01

    def scores(self, tree: SearchTree, num_nodes: int) -> Tensor:
        """Scores of all actions of the first ``num_nodes`` nodes, ``[B, num_nodes, A]``."""
        node_visits = tree.node_visits[:, :num_nodes]
        weight = exploration_weights(node_visits, self.pb_c_init, self.pb_c_base)
        exploration = tree.children_prior[:, :num_nodes] * weight.unsqueeze(-1)
        exploration /= tree.children_visits[:, :num_nodes] + 1
        if num_nodes == 1:
            # Before the first simulation there is no value to compare.
            return exploration
        if self.q_normalization == "tree":
            return exploration.add_(tree_normalized_qvalues(tree, num_nodes, self.value_delta_max))
        return exploration.add_(sibling_normalized_qvalues(tree, num_nodes))


def exploration_weights(node_visits: Tensor, pb_c_init: float, pb_c_base: float) -> Tensor:
    """Factor of ``P / (1 + N(s, a))`` in the score, for nodes with these visits, same shape."""
    weight = torch.log((node_visits + (pb_c_base + 1)) / pb_c_base).add_(pb_c_init)
    return weight.mul_(node_visits.sqrt())


def tree_normalized_qvalues(tree: SearchTree, num_nodes: int, value_delta_max: float) -> Tensor:
    """Q values scaled by the smallest and largest Q of the whole tree, ``[B, num_nodes, A]``.

    EfficientZero (arXiv:2111.00210) and its code: bounds are taken over all expanded nodes but the root, each
    with the reward of its true parent, and the range is at least ``value_delta_max``. An unvisited action
    counts as the mean Q of :func:`mean_qvalues`.

    Args:
        tree: a tree with at least one node behind the root.
        num_nodes: nodes that exist, at least 2.
        value_delta_max: smallest range that is stretched to [0, 1].
    """
    unvisited = 1 - tree.children_visits[:, :num_nodes].clamp(max=1)
    mean = mean_qvalues(tree, num_nodes)
    completed = torch.addcmul(tree.children_qvalues[:, :num_nodes], unvisited, mean.unsqueeze(-1))
    # Means of Q values lie between the bounds, so nothing has to be clipped to [0, 1] afterwards.
    low, high = torch.aminmax(tree.node_qvalues[:, 1:num_nodes], dim=1)
    scale = (high - low).clamp_(min=value_delta_max)
    return completed.sub_(low[:, None, None]).div_(scale[:, None, None])


def mean_qvalues(tree: SearchTree, num_nodes: int) -> Tensor:
    """EfficientZero's value of the unvisited actions of each node, ``[B, num_nodes]``.

    At the root it is the mean Q of the visited actions; elsewhere the parent's mean counts as one more
    sample: ``(parent mean + sum of visited Q) / (number of visited actions + 1)``.
    """
    num_visited = tree.children_visits[:, :num_nodes].clamp(max=1).sum(dim=-1)
    sum_visited = tree.children_qvalues[:, :num_nodes].sum(dim=-1)
    weight = (num_visited + 1).reciprocal_()
    weight[:, SearchTree.ROOT] = 0
    own = sum_visited * weight
    own[:, SearchTree.ROOT] = sum_visited[:, SearchTree.ROOT] / num_visited[:, SearchTree.ROOT]
    # Each pass is right for one level more, starting from the root.
    mean, parents = own, tree.parents[:, :num_nodes].long()
    for _ in range(int(tree.node_depths[:, :num_nodes].max())):
        mean = torch.addcmul(own, mean.gather(1, parents), weight)
    return mean


def sibling_normalized_qvalues(
    tree: SearchTree, num_nodes: int, epsilon: float = SIBLING_RANGE_FLOOR
) -> Tensor:
    """Q values scaled by the bounds of a node's own value and its visited actions, ``[B, num_nodes, A]``.

    Unvisited actions get 0, the lower bound: mctx's ``qtransform_by_parent_and_siblings``.
    """
    visited = tree.children_visits[:, :num_nodes].clamp(max=1)
    value = (tree.node_value_sums[:, :num_nodes] / tree.node_visits[:, :num_nodes]).unsqueeze(-1)
    qvalues = tree.children_qvalues[:, :num_nodes]
    low, high = torch.aminmax(torch.addcmul(qvalues, 1 - visited, value), dim=-1, keepdim=True)
    low, high = torch.minimum(low, value), torch.maximum(high, value)
    return (qvalues - low).div_((high - low).clamp_(min=epsilon)).mul_(visited)


def mix_root_noise(prior: Tensor, noise: Tensor, fraction: float) -> Tensor:
    """Root prior with exploration noise: ``(1 - fraction) * prior + fraction * noise``, ``[B, A]``.

    AlphaZero (arXiv:1712.01815); MuZero draws the noise from a Dirichlet distribution over legal actions.
    """
    return torch.lerp(prior, noise, fraction)
