"""The batched search tree: one dataclass of ``[B, N]`` and ``[B, N, A]`` arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass
class SearchTree:
    """State of ``B`` independent search trees of ``N = num_simulations + 1`` nodes each.

    The leaf made by simulation ``i`` is node ``i + 1`` in every tree, so a parent always has a smaller index
    than its children and the first ``n`` columns are all that exists before simulation ``n - 1``. What lies
    behind them is uninitialised: a node's rows are written when it is added. A node counts its own expansion as
    a visit, as in mctx, whose field names are used where the meaning is the same.

    Counts are stored in the floating type of the values: they are exact, and scores need no conversion.
    """

    node_visits: Tensor  # [B, N]
    """Visits of a node, its own expansion included: 1 + the sum of its ``children_visits``."""
    node_value_sums: Tensor  # [B, N]
    """Sum of the returns that passed through a node, its own network value included."""
    node_raw_values: Tensor  # [B, N]
    """Network value of a node."""
    node_rewards: Tensor  # [B, N]
    """True reward of the step into a node; 0 at the root."""
    node_qvalues: Tensor  # [B, N]
    """``reward + discount * value`` of a node, seen from its parent; 0 at the root."""
    node_prefix_bases: Tensor  # [B, N]
    """Value prefix that children continue: the node's own, or 0 where the model's LSTM was reset. Unused without."""
    node_depths: Tensor  # [B, N] int32
    """Steps from the root."""
    parents: Tensor  # [B, N] int32
    """Index of a node's parent; the root points to itself."""
    parent_edges: Tensor  # [B, N] int32
    """``parent * A + action`` of the step into a node: its place in a flattened ``[N * A]`` array."""
    children_index: Tensor  # [B, N, A] int32
    """Node reached by an action, or ``UNVISITED``."""
    children_prior_logits: Tensor  # [B, N, A]
    """Policy logits of a node; -inf for illegal actions."""
    children_prior: Tensor  # [B, N, A]
    """Policy probabilities of a node over legal actions; at the root with any exploration noise."""
    children_visits: Tensor  # [B, N, A]
    """Visits of each action."""
    children_qvalues: Tensor  # [B, N, A]
    """``node_qvalues`` of the child behind an action; 0 where it is unvisited."""
    root_invalid_actions: Tensor  # [B, A] bool
    """True for actions that are illegal at the root."""
    mask_below_root: bool
    """Whether they are illegal in the whole tree."""
    tie_seeds: Tensor | None  # [B] int64 in [0, 2^31)
    """One for each tree, from which ties are broken at random; None = the lowest of equal actions wins."""
    discount: float
    """Discount of one step."""
    value_prefix_horizon: int | None
    """LSTM horizon of a value-prefix model; None for plain rewards."""

    ROOT: ClassVar[int] = 0
    UNVISITED: ClassVar[int] = -1

    @property
    def batch_size(self) -> int:
        """Number of trees, ``B``."""
        return self.node_visits.shape[0]

    @property
    def num_nodes(self) -> int:
        """Nodes that each tree has room for, ``N``."""
        return self.node_visits.shape[1]

    @property
    def num_actions(self) -> int:
        """Actions of each node, ``A``."""
        return self.children_index.shape[2]

    @property
    def max_depth(self) -> int:
        """Depth of the deepest node over the whole batch, once all nodes exist; waits for the device."""
        return int(self.node_depths.max())

    @property
    def node_values(self) -> Tensor:
        """Mean return of each node, ``[B, N]``."""
        return self.node_value_sums / self.node_visits

    @property
    def action_from_parent(self) -> Tensor:
        """Action that leads into each node, ``[B, N]`` int32; meaningless at the root."""
        return self.parent_edges % self.num_actions

    def edges(self, array: Tensor) -> Tensor:
        """View of a ``[B, N, A]`` array as ``[B, N * A]``, the space of ``parent_edges``."""
        return array.view(self.batch_size, -1)


def tree_from_root(
    prior_logits: Tensor,
    prior: Tensor,
    value: Tensor,
    invalid_actions: Tensor,
    *,
    mask_below_root: bool = False,
    num_simulations: int,
    discount: float,
    value_prefix_horizon: int | None,
    tie_seeds: Tensor | None = None,
) -> SearchTree:
    """Tree that holds the roots only, with room for ``num_simulations`` leaves.

    Args:
        prior_logits: ``[B, A]``, -inf for illegal actions.
        prior: ``[B, A]`` probabilities that guide pUCT, noise included.
        value: ``[B]`` network value of the roots.
        invalid_actions: ``[B, A]`` bool.
        mask_below_root: see :class:`SearchTree`.
        num_simulations: leaves to come.
        discount: of one step.
        value_prefix_horizon: see :class:`SearchTree`, also for the next.
        tie_seeds: see there.
    """
    batch_size, num_actions = prior_logits.shape
    nodes = (batch_size, num_simulations + 1)
    tree = SearchTree(
        **_allocate(_NODE_VALUES, _EDGE_VALUES, nodes, num_actions, value, value.dtype),
        **_allocate(_NODE_INDICES, _EDGE_INDICES, nodes, num_actions, value, torch.int32),
        root_invalid_actions=invalid_actions,
        mask_below_root=mask_below_root,
        tie_seeds=tie_seeds,
        discount=discount,
        value_prefix_horizon=value_prefix_horizon,
    )
    set_roots(tree, prior_logits, prior, value)
    return tree


def set_roots(tree: SearchTree, prior_logits: Tensor, prior: Tensor, value: Tensor) -> None:
    """Write the root rows of trees that have no other node yet; arguments as in :func:`tree_from_root`."""
    root = SearchTree.ROOT
    for array in (
        tree.node_rewards,
        tree.node_qvalues,
        tree.node_prefix_bases,
        tree.node_depths,
        tree.parents,
        tree.parent_edges,
        tree.children_visits,
        tree.children_qvalues,
    ):
        array[:, root] = 0
    tree.children_index[:, root] = SearchTree.UNVISITED
    tree.node_visits[:, root] = 1
    tree.node_value_sums[:, root] = value
    tree.node_raw_values[:, root] = value
    tree.children_prior_logits[:, root] = prior_logits
    tree.children_prior[:, root] = prior


_NODE_VALUES = (
    "node_visits",
    "node_value_sums",
    "node_raw_values",
    "node_rewards",
    "node_qvalues",
    "node_prefix_bases",
)
_EDGE_VALUES = ("children_prior_logits", "children_prior", "children_visits", "children_qvalues")
_NODE_INDICES = ("node_depths", "parents", "parent_edges")
_EDGE_INDICES = ("children_index",)


def node_bytes(num_actions: int, dtype: torch.dtype) -> int:
    """Bytes of one node of one tree."""
    node = len(_NODE_VALUES) * dtype.itemsize + len(_NODE_INDICES) * torch.int32.itemsize
    edge = len(_EDGE_VALUES) * dtype.itemsize + len(_EDGE_INDICES) * torch.int32.itemsize
    return node + num_actions * edge


def _allocate(
    node_names: Sequence[str],
    edge_names: Sequence[str],
    nodes: tuple[int, int],
    num_actions: int,
    like: Tensor,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Uninitialised arrays of one dtype in one piece of memory.

    One large block is handed from search to search by the allocator, where many smaller ones are returned to the
    system and their pages fetched again: a tenth of the time of a search without a network.
    """
    node_size = nodes[0] * nodes[1]
    sizes = [node_size] * len(node_names) + [node_size * num_actions] * len(edge_names)
    shapes = [nodes] * len(node_names) + [(*nodes, num_actions)] * len(edge_names)
    parts = like.new_empty(sum(sizes), dtype=dtype).split(sizes)
    names = (*node_names, *edge_names)
    return {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
