"""The reference backend: select, expand and backup in plain PyTorch, the definition of correct.

All trees of a batch move in lockstep. Selection asks the host once for each level of the deepest tree whether
any tree goes on, and backup asks for the depth of the deepest leaf: that costs nothing on the CPU and
synchronisations on a GPU.
"""

from __future__ import annotations

import torch

from xtra_rl.search.backends import Rule, Selection
from xtra_rl.search.ties import best_actions
from xtra_rl.search.tree import SearchTree
from xtra_rl.search.types import RecurrentOutput


class ReferenceSteps:
    """:class:`~xtra_rl.search.backends.Steps` in plain PyTorch, for any rule."""

    def __init__(self, tree: SearchTree, rule: Rule) -> None:
        self.tree = tree
        self.rule = rule
        self._selection: Selection

    def select(self) -> Selection:
        return self._select(1)

    def update(self, output: RecurrentOutput, leaf: int) -> None:
        expand(self.tree, self._selection, output, leaf)
        backup(self.tree, leaf)

    def update_and_select(self, output: RecurrentOutput, leaf: int) -> Selection:
        self.update(output, leaf)
        return self._select(leaf + 1)

    def _select(self, num_nodes: int) -> Selection:
        self._selection = select(self.tree, self.rule, num_nodes)
        return self._selection


def select(tree: SearchTree, rule: Rule, num_nodes: int) -> Selection:
    """Follow the best action from the root of each tree until it is an unvisited one.

    Every node is scored at once, and the walk only follows the winners: that takes fewer operations than
    scoring one level after the other. Of equal scores the lowest action wins.

    Args:
        tree: the trees.
        rule: scores actions.
        num_nodes: nodes that exist in each tree.
    """
    scores = rule.scores(tree, num_nodes)
    masked = scores if tree.mask_below_root else scores[:, : SearchTree.ROOT + 1]
    masked.masked_fill_(tree.root_invalid_actions.unsqueeze(1), -torch.inf)
    action = best_actions(scores, tree.tie_seeds)  # [B, num_nodes]
    child = tree.children_index[:, :num_nodes].gather(2, action.unsqueeze(-1)).squeeze(-1).long()
    # Children have larger indices than their parent, so the maximum makes a node without a chosen child point
    # to itself, and the walk of a finished tree stands still.
    successor = torch.maximum(child, torch.arange(num_nodes, device=child.device))
    node = torch.zeros_like(action[:, :1])
    while not torch.equal(deeper := successor.gather(1, node), node):
        node = deeper
    return Selection(node.squeeze(1), action.gather(1, node).squeeze(1))


def expand(tree: SearchTree, selection: Selection, output: RecurrentOutput, leaf: int) -> None:
    """Add node ``leaf`` to each tree, with what the model said about it.

    With a value prefix the reward of a step is the difference of the prefixes of child and parent, or the
    child's prefix alone where the parent's LSTM was reset, that is at every depth divisible by the horizon.
    """
    parent, action = selection.parent, selection.action
    parents = parent.unsqueeze(1)
    edge = torch.add(action, parent, alpha=tree.num_actions)
    depth = tree.node_depths.gather(1, parents).squeeze(1) + 1
    reward = output.reward
    if tree.value_prefix_horizon is not None:
        reward = reward - tree.node_prefix_bases.gather(1, parents).squeeze(1)
        is_reset = depth % tree.value_prefix_horizon == 0
        tree.node_prefix_bases[:, leaf] = output.reward.masked_fill(is_reset, 0)
    tree.node_visits[:, leaf] = 1
    tree.node_value_sums[:, leaf] = output.value
    tree.node_raw_values[:, leaf] = output.value
    tree.node_rewards[:, leaf] = reward
    tree.node_depths[:, leaf] = depth
    tree.parents[:, leaf] = parent
    tree.parent_edges[:, leaf] = edge
    tree.children_index[:, leaf] = SearchTree.UNVISITED
    tree.children_visits[:, leaf] = 0
    tree.children_qvalues[:, leaf] = 0
    tree.children_prior_logits[:, leaf] = output.prior_logits
    tree.children_prior[:, leaf] = output.prior_logits.softmax(dim=-1)
    tree.edges(tree.children_index).scatter_(1, edge.unsqueeze(1), leaf)


def backup(tree: SearchTree, leaf: int) -> None:
    """Add the return of node ``leaf`` to all its ancestors and refresh the statistics of their actions."""
    depths = tree.node_depths[:, leaf : leaf + 1]
    deepest = int(depths.max())
    parents = tree.parents[:, : leaf + 1].long()
    node = torch.full_like(parents[:, :1], leaf)
    value = tree.node_raw_values[:, leaf : leaf + 1]
    ancestors, returns = [], []
    for _ in range(deepest):
        value = torch.add(tree.node_rewards.gather(1, node), value, alpha=tree.discount)
        node = parents.gather(1, node)
        ancestors.append(node)
        returns.append(value)
    # A tree whose leaf lies higher than the deepest one meets its root again and again: only the first
    # counts.
    levels = torch.arange(deepest, device=node.device)
    counts = (levels < depths).to(value.dtype)  # [B, deepest]
    path = torch.cat(ancestors, dim=1)
    tree.node_visits.scatter_add_(1, path, counts)
    tree.node_value_sums.scatter_add_(1, path, torch.cat(returns, dim=1).mul_(counts))

    nodes = slice(1, leaf + 1)
    visits, edges = tree.node_visits[:, nodes], tree.parent_edges[:, nodes].long()
    values = tree.node_value_sums[:, nodes] / visits
    qvalues = torch.add(tree.node_rewards[:, nodes], values, alpha=tree.discount)
    tree.node_qvalues[:, nodes] = qvalues
    tree.edges(tree.children_qvalues).scatter_(1, edges, qvalues)
    tree.edges(tree.children_visits).scatter_(1, edges, visits)
