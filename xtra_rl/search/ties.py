"""Which of equally good actions is taken: an integer hash that gives the same bits on every device."""

from __future__ import annotations

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
NODE_FACTOR = 0x9E3779B1
STEP_FACTOR = 0x85EBCA77
ACTION_FACTOR = 0xC2B2AE3D


def draw_tie_seeds(batch_size: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """One seed for each tree, ``[B]`` int64 in ``[0, 2^31)``; chunks of a batch draw what the whole would."""
    return torch.randint(2**31, (batch_size,), generator=generator, device=generator.device).to(device)


def tie_keys(seeds: Tensor, num_nodes: int, num_actions: int) -> Tensor:
    """Keys ``[B, num_nodes, A]`` int64 below 2^31 of all actions; of equal scores the largest key wins.

    The keys change with the tree, the node, the action and the size of the tree, so that ties are drawn anew in
    every simulation and in every node. Mixing by C. Wellons' lowbias32; arithmetic modulo 2^32, for which the
    wrap-around of int64 products does no harm.

    Args:
        seeds: ``[B]`` int64 of :func:`draw_tie_seeds`.
        num_nodes: nodes that exist in each tree.
        num_actions: A.
    """
    node = torch.arange(num_nodes, device=seeds.device) * NODE_FACTOR
    action = torch.arange(num_actions, device=seeds.device) * ACTION_FACTOR
    key = seeds[:, None, None] + node[:, None] + (action + num_nodes * STEP_FACTOR)
    key &= _MASK
    key ^= key >> 16
    key = key * 0x7FEB352D & _MASK
    key ^= key >> 15
    key = key * 0x846CA68B & _MASK
    return (key ^ key >> 16) >> 1


def best_actions(scores: Tensor, seeds: Tensor | None) -> Tensor:
    """Best action of each node ``[B, num_nodes]`` int64, ties broken by ``seeds`` or for the lowest action.

    Args:
        scores: ``[B, num_nodes, A]``.
        seeds: ``[B]`` or None.
    """
    best = scores.max(dim=-1, keepdim=True)
    if seeds is None:
        return best.indices.squeeze(-1)
    keys = tie_keys(seeds, *scores.shape[1:])
    return keys.masked_fill_(scores != best.values, -1).max(dim=-1).indices
