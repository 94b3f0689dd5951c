"""Compiled tree operations of the numba backend: one function for one tree, and loops over all trees.

The arithmetic follows :mod:`xtra_rl.search.puct`, :mod:`~xtra_rl.search.gumbel` and
:mod:`~xtra_rl.search.reference` operation by operation, so that equal scores stay equal here; but only the nodes
on the way down are scored, and only those on the way up are refreshed. Constants come in arrays of the tree's dtype:
a Python literal would turn float32 into float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from xtra_rl.search.ties import ACTION_FACTOR, NODE_FACTOR, STEP_FACTOR

# Sums and maxima may be taken in any order, which lets them use vector registers; infinities and NaN stay exact.
_FAST = {"reassoc", "nsz"}
_jit = njit(cache=True, fastmath=_FAST, error_model="numpy", nogil=True)
_jit_parallel = njit(cache=True, fastmath=_FAST, error_model="numpy", nogil=True, parallel=True)

_MASK = np.uint64(0xFFFFFFFF)
_NODE, _STEP, _ACTION = np.uint64(NODE_FACTOR), np.uint64(STEP_FACTOR), np.uint64(ACTION_FACTOR)
_MIX_1, _MIX_2 = np.uint64(0x7FEB352D), np.uint64(0x846CA68B)
_15, _16 = np.uint64(15), np.uint64(16)


class TreeArrays(NamedTuple):
    """Arrays of a :class:`~xtra_rl.search.tree.SearchTree` under their names, and the buffers of a search."""

    node_visits: Any
    node_value_sums: Any
    node_raw_values: Any
    node_rewards: Any
    node_qvalues: Any
    node_prefix_bases: Any
    node_depths: Any
    parents: Any
    parent_edges: Any
    children_index: Any
    children_prior_logits: Any
    children_prior: Any
    children_visits: Any
    children_qvalues: Any
    root_invalid_actions: Any
    tie_seeds: Any  # [B], or [0]: the lowest of equal actions wins
    scores: Any  # [B, A] scratch
    parent: Any  # [N, B] int64: selection of each simulation
    action: Any  # [N, B] int64
    constants: Any  # [3]: zero, one, discount
    horizon: int  # 0 = plain rewards


class PuctArrays(NamedTuple):
    """Constants of a :class:`~xtra_rl.search.puct.PuctRule`."""

    weights: Any  # [N + 1]: exploration weight of a node with that many visits
    constants: Any  # [1]: smallest range that is stretched to [0, 1]
    by_tree: bool  # normalise Q over the whole tree, not over siblings


class GumbelArrays(NamedTuple):
    """Constants of a :class:`~xtra_rl.search.gumbel.GumbelRule`."""

    gumbel: Any  # [B, A]
    considered_visits: Any  # [B, N - 1]
    constants: Any  # [5]: value_scale, maxvisit_init, rescale_floor, smallest normal number, lowest score


@_jit
def _tie_key(seed, node, num_nodes, action):
    """See :func:`xtra_rl.search.ties.tie_keys`."""
    key = np.uint64(seed) + np.uint64(node) * _NODE + np.uint64(num_nodes) * _STEP + np.uint64(action) * _ACTION
    key &= _MASK
    key ^= key >> _16
    key = key * _MIX_1 & _MASK
    key ^= key >> _15
    key = key * _MIX_2 & _MASK
    return key ^ key >> _16


@_jit
def _best(tree, b, node, num_nodes):
    """Action with the largest score of ``tree.scores[b]``."""
    scores = tree.scores[b]
    best = 0
    highest = scores[0]
    ties = False
    for a in range(1, scores.size):
        if scores[a] > highest:
            best, highest, ties = a, scores[a], False
        elif scores[a] == highest:
            ties = True
    if ties and tree.tie_seeds.size > 0:
        largest = _tie_key(tree.tie_seeds[b], node, num_nodes, best)
        for a in range(best + 1, scores.size):
            if scores[a] == highest:
                key = _tie_key(tree.tie_seeds[b], node, num_nodes, a)
                if key > largest:
                    best, largest = a, key
    return best


@_jit
def _mask_root(tree, b):
    for a in range(tree.scores.shape[1]):
        if tree.root_invalid_actions[b, a]:
            tree.scores[b, a] = -np.inf


@_jit
def _select_puct(tree, rule, b, num_nodes):
    """Walk down one tree; writes the selection of node ``num_nodes``."""
    zero, one = tree.constants[0], tree.constants[1]
    scores = tree.scores[b]
    low = high = tree.node_qvalues[b, min(1, num_nodes - 1)]
    if rule.by_tree:
        qvalues = tree.node_qvalues[b]
        for i in range(2, num_nodes):
            low = min(low, qvalues[i])
            high = max(high, qvalues[i])
    scale = max(high - low, rule.constants[0])
    node, mean = 0, zero
    while True:
        prior, visits = tree.children_prior[b, node], tree.children_visits[b, node]
        qvalues = tree.children_qvalues[b, node]
        weight = rule.weights[int(tree.node_visits[b, node])]
        if num_nodes == 1:
            for a in range(scores.size):
                scores[a] = prior[a] * weight / (visits[a] + one)
        elif rule.by_tree:
            total, count = zero, zero
            for a in range(scores.size):
                total += qvalues[a]
                count += min(visits[a], one)
            if node == 0:
                mean = total / count
            else:
                share = one / (count + one)
                mean = total * share + mean * share
            for a in range(scores.size):
                q = qvalues[a] if visits[a] > zero else mean
                scores[a] = prior[a] * weight / (visits[a] + one) + (q - low) / scale
        else:
            low = high = tree.node_value_sums[b, node] / tree.node_visits[b, node]
            for a in range(scores.size):
                if visits[a] > zero:
                    low = min(low, qvalues[a])
                    high = max(high, qvalues[a])
            scale = max(high - low, rule.constants[0])
            for a in range(scores.size):
                q = (qvalues[a] - low) / scale if visits[a] > zero else zero
                scores[a] = prior[a] * weight / (visits[a] + one) + q
        if node == 0:
            _mask_root(tree, b)
        action = _best(tree, b, node, num_nodes)
        child = tree.children_index[b, node, action]
        if child < 0:
            break
        node = child
    tree.parent[num_nodes, b] = node
    tree.action[num_nodes, b] = action


@_jit
def _complete_qvalues(tree, rule, b, node):
    """Completed and rescaled Q values of a node into ``tree.scores[b]``: Gumbel MuZero's sigma(q)."""
    zero, one = tree.constants[0], tree.constants[1]
    prior, visits = tree.children_prior[b, node], tree.children_visits[b, node]
    qvalues, scores = tree.children_qvalues[b, node], tree.scores[b]
    tiny = rule.constants[3]
    weight, total, most = zero, zero, zero
    for a in range(scores.size):
        p = max(prior[a], tiny)
        weight += p * min(visits[a], one)
        total += p * qvalues[a]
        most = max(most, visits[a])
    node_visits = tree.node_visits[b, node]
    mean = total / max(weight, tiny)
    mixed = (tree.node_raw_values[b, node] + (node_visits - one) * mean) / node_visits
    low, high = zero + np.inf, zero - np.inf
    for a in range(scores.size):
        q = qvalues[a] if visits[a] > zero else mixed
        scores[a] = q
        low = min(low, q)
        high = max(high, q)
    scale = (most + rule.constants[1]) * rule.constants[0] / max(high - low, rule.constants[2])
    for a in range(scores.size):
        scores[a] = (scores[a] - low) * scale


@_jit
def _select_gumbel(tree, rule, b, num_nodes):
    """Walk down one tree; writes the selection of node ``num_nodes``."""
    scores, zero = tree.scores[b], tree.constants[0]
    node = 0
    while True:
        logits, visits = tree.children_prior_logits[b, node], tree.children_visits[b, node]
        _complete_qvalues(tree, rule, b, node)
        if node == 0:
            top = logits[0]
            for a in range(scores.size):
                top = max(top, logits[a])
            considered = rule.considered_visits[b, num_nodes - 1]
            for a in range(scores.size):
                score = rule.gumbel[b, a] + (logits[a] - top) + scores[a]
                score = max(score, rule.constants[4])
                scores[a] = score if visits[a] == considered else -np.inf
            _mask_root(tree, b)
        else:
            top, total = zero - np.inf, zero
            for a in range(scores.size):
                scores[a] += logits[a]
                top = max(top, scores[a])
            for a in range(scores.size):
                scores[a] = math.exp(scores[a] - top)
                total += scores[a]
            node_visits = tree.node_visits[b, node]
            for a in range(scores.size):
                scores[a] = scores[a] / total - visits[a] / node_visits
        action = _best(tree, b, node, num_nodes)
        child = tree.children_index[b, node, action]
        if child < 0:
            break
        node = child
    tree.parent[num_nodes, b] = node
    tree.action[num_nodes, b] = action


@_jit
def _update(tree, b, reward, value, logits, prior, leaf):
    """Expand node ``leaf`` of one tree and refresh the path above it; ``logits`` and ``prior`` are ``[A]``."""
    zero, one, discount = tree.constants[0], tree.constants[1], tree.constants[2]
    parent, action = tree.parent[leaf, b], tree.action[leaf, b]
    num_actions = logits.size
    depth = tree.node_depths[b, parent] + 1
    if tree.horizon > 0:
        tree.node_prefix_bases[b, leaf] = zero if depth % tree.horizon == 0 else reward
        reward = reward - tree.node_prefix_bases[b, parent]
    tree.node_visits[b, leaf] = one
    tree.node_value_sums[b, leaf] = value
    tree.node_raw_values[b, leaf] = value
    tree.node_rewards[b, leaf] = reward
    tree.node_depths[b, leaf] = depth
    tree.parents[b, leaf] = parent
    tree.parent_edges[b, leaf] = parent * num_actions + action
    tree.children_index[b, parent, action] = leaf
    for a in range(num_actions):
        tree.children_prior_logits[b, leaf, a] = logits[a]
        tree.children_prior[b, leaf, a] = prior[a]
    node = leaf
    while node != 0:
        # The sums of this node are complete here: its return was added from below.
        visits = tree.node_visits[b, node]
        reward = tree.node_rewards[b, node]
        qvalue = reward + discount * (tree.node_value_sums[b, node] / visits)
        tree.node_qvalues[b, node] = qvalue
        parent = tree.parents[b, node]
        action = tree.parent_edges[b, node] - parent * num_actions
        tree.children_qvalues[b, parent, action] = qvalue
        tree.children_visits[b, parent, action] = visits
        value = reward + discount * value
        tree.node_value_sums[b, parent] += value
        tree.node_visits[b, parent] += one
        node = parent


@_jit
def select_puct(tree, rule, num_nodes):
    """Selections of node ``num_nodes`` of all trees."""
    for b in range(tree.scores.shape[0]):
        _select_puct(tree, rule, b, num_nodes)


@_jit
def select_gumbel(tree, rule, num_nodes):
    """Selections of node ``num_nodes`` of all trees."""
    for b in range(tree.scores.shape[0]):
        _select_gumbel(tree, rule, b, num_nodes)


@_jit
def update(tree, reward, value, logits, prior, leaf):
    """Expand node ``leaf`` of all trees and back up."""
    for b in range(tree.scores.shape[0]):
        _update(tree, b, reward[b], value[b], logits[b], prior[b], leaf)


@_jit
def step_puct(tree, rule, reward, value, logits, prior, leaf):
    """:func:`update`, then :func:`select_puct`, tree by tree while it is in the cache."""
    for b in range(tree.scores.shape[0]):
        _update(tree, b, reward[b], value[b], logits[b], prior[b], leaf)
        _select_puct(tree, rule, b, leaf + 1)


@_jit_parallel
def step_puct_parallel(tree, rule, reward, value, logits, prior, leaf):
    """:func:`step_puct` on several threads."""
    for b in prange(tree.scores.shape[0]):
        _update(tree, b, reward[b], value[b], logits[b], prior[b], leaf)
        _select_puct(tree, rule, b, leaf + 1)


@_jit
def step_gumbel(tree, rule, reward, value, logits, prior, leaf):
    """:func:`update`, then :func:`select_gumbel`, tree by tree while it is in the cache."""
    for b in range(tree.scores.shape[0]):
        _update(tree, b, reward[b], value[b], logits[b], prior[b], leaf)
        _select_gumbel(tree, rule, b, leaf + 1)


@_jit_parallel
def step_gumbel_parallel(tree, rule, reward, value, logits, prior, leaf):
    """:func:`step_gumbel` on several threads."""
    for b in prange(tree.scores.shape[0]):
        _update(tree, b, reward[b], value[b], logits[b], prior[b], leaf)
        _select_gumbel(tree, rule, b, leaf + 1)
