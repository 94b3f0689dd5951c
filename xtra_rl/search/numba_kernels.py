"""Compiled tree operations of the numba backend, each over a range of trees.

The arithmetic follows :mod:`xtra_rl.search.puct`, :mod:`~xtra_rl.search.gumbel` and
:mod:`~xtra_rl.search.reference` operation by operation, so that equal scores stay equal here; but only the nodes
on the way down are scored, and only those on the way up are refreshed. Constants come in arrays of the tree's dtype:
a Python literal would turn float32 into float64.

Each function is one long loop that indexes its arrays ``[b, node, a]`` in place: slices, and calls that pass the
arrays on for every tree, take as long as the arithmetic.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numba import njit, prange

from xtra_rl.search.ties import ACTION_FACTOR, NODE_FACTOR, STEP_FACTOR

# Sums and maxima may be taken in any order, which lets them use vector registers. NaN is not searched for here:
# xtra_rl.search.search.check_finite looks at the finished tree, and no NaN can lead an index astray.
_FAST = {"reassoc", "nsz", "nnan"}
_jit = njit(cache=True, fastmath=_FAST, error_model="numpy", nogil=True)
_jit_parallel = njit(cache=True, fastmath=_FAST, error_model="numpy", nogil=True, parallel=True)

_MASK = np.uint64(0xFFFFFFFF)
_NODE, _STEP, _ACTION = np.uint64(NODE_FACTOR), np.uint64(STEP_FACTOR), np.uint64(ACTION_FACTOR)
_MIX_1, _MIX_2 = np.uint64(0x7FEB352D), np.uint64(0x846CA68B)
_1, _15, _16 = np.uint64(1), np.uint64(15), np.uint64(16)


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
    mask_below_root: bool
    tie_seeds: Any  # [B], or [0]: the lowest of equal actions wins
    scores: Any  # [B, A] scratch
    parent: Any  # [B] int64: the last selection
    row: Any  # [B] int64: parent * B + b
    reset: Any  # [B] bool: the LSTM starts anew behind the parent
    actions: Any  # [N, B] int64: the actions of all selections
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


class OutputArrays(NamedTuple):
    """A :class:`~xtra_rl.search.types.RecurrentOutput` and the softmax of its logits."""

    reward: Any  # [B]
    value: Any  # [B]
    prior_logits: Any  # [B, A]
    prior: Any  # [B, A]


#: Trees that are updated and then selected from before the next ones are touched: they share the cache.
_BLOCK = 8


@_jit
def _tie_key(seed, node, num_nodes, action):
    """See :func:`xtra_rl.search.ties.tie_keys`."""
    key = (
        np.uint64(seed) + np.uint64(node) * _NODE + np.uint64(num_nodes) * _STEP + np.uint64(action) * _ACTION
    )
    key &= _MASK
    key ^= key >> _16
    key = key * _MIX_1 & _MASK
    key ^= key >> _15
    key = key * _MIX_2 & _MASK
    return (key ^ key >> _16) >> _1


@_jit
def _best(scores, seeds, b, node, num_nodes):
    """Action with the largest of ``scores[b]``; equal ones are told apart by the seeds, if there are any."""
    last = scores.shape[1] - 1
    highest = scores[b, 0]
    for a in range(1, last + 1):
        highest = max(highest, scores[b, a])
    best = 0
    while best < last and scores[b, best] != highest:
        best += 1
    if seeds.size > 0:
        largest = np.uint64(0)
        first = best
        for a in range(first + 1, last + 1):
            if scores[b, a] == highest:
                if best == first and largest == 0:
                    largest = _tie_key(seeds[b], node, num_nodes, first)
                key = _tie_key(seeds[b], node, num_nodes, a)
                if key > largest:
                    best, largest = a, key
    return best


@_jit
def select_puct(tree, rule, num_nodes, start, stop):
    """Walk down trees ``start`` to ``stop``; writes the selections of node ``num_nodes``."""
    prior, visits, qvalues = tree.children_prior, tree.children_visits, tree.children_qvalues
    children, node_visits, node_qvalues = tree.children_index, tree.node_visits, tree.node_qvalues
    scores, invalid, weights = tree.scores, tree.root_invalid_actions, rule.weights
    num_trees, num_actions = scores.shape
    zero, one, floor = tree.constants[0], tree.constants[1], rule.constants[0]
    for b in range(start, stop):
        low = high = node_qvalues[b, min(1, num_nodes - 1)]
        if rule.by_tree:
            for i in range(2, num_nodes):
                low = min(low, node_qvalues[b, i])
                high = max(high, node_qvalues[b, i])
        scale = max(high - low, floor)
        node, mean = 0, zero
        while True:
            weight = weights[int(node_visits[b, node])]
            if num_nodes == 1:
                for a in range(num_actions):
                    scores[b, a] = prior[b, node, a] * weight / (visits[b, node, a] + one)
            elif rule.by_tree:
                total, count = zero, zero
                for a in range(num_actions):
                    total += qvalues[b, node, a]
                    count += min(visits[b, node, a], one)
                if node == 0:
                    mean = total / count
                else:
                    share = one / (count + one)
                    mean = total * share + mean * share
                for a in range(num_actions):
                    n = visits[b, node, a]
                    q = qvalues[b, node, a] if n > zero else mean
                    scores[b, a] = prior[b, node, a] * weight / (n + one) + (q - low) / scale
            else:
                low = high = tree.node_value_sums[b, node] / node_visits[b, node]
                for a in range(num_actions):
                    q = qvalues[b, node, a] if visits[b, node, a] > zero else low
                    low = min(low, q)
                    high = max(high, q)
                scale = max(high - low, floor)
                for a in range(num_actions):
                    n = visits[b, node, a]
                    q = (qvalues[b, node, a] - low) / scale if n > zero else zero
                    scores[b, a] = prior[b, node, a] * weight / (n + one) + q
            if node == 0 or tree.mask_below_root:
                for a in range(num_actions):
                    if invalid[b, a]:
                        scores[b, a] = -np.inf
            action = _best(scores, tree.tie_seeds, b, node, num_nodes)
            child = children[b, node, action]
            # A child comes after its parent: the walk ends even in a tree that something else has spoilt.
            if child <= node:
                break
            node = child
        tree.parent[b] = node
        tree.row[b] = node * num_trees + b
        tree.reset[b] = tree.horizon > 0 and tree.node_depths[b, node] % tree.horizon == 0
        tree.actions[num_nodes, b] = action


@_jit
def select_gumbel(tree, rule, num_nodes, start, stop):
    """Walk down trees ``start`` to ``stop``; writes the selections of node ``num_nodes``."""
    prior, visits, qvalues = tree.children_prior, tree.children_visits, tree.children_qvalues
    logits, children, scores = tree.children_prior_logits, tree.children_index, tree.scores
    num_trees, num_actions = scores.shape
    zero, one = tree.constants[0], tree.constants[1]
    value_scale, maxvisit_init, floor = rule.constants[0], rule.constants[1], rule.constants[2]
    tiny, lowest = rule.constants[3], rule.constants[4]
    for b in range(start, stop):
        node = 0
        while True:
            # Completed and rescaled Q values: the paper's sigma(q).
            weight, total, most = zero, zero, zero
            for a in range(num_actions):
                p, n = max(prior[b, node, a], tiny), visits[b, node, a]
                weight += p * min(n, one)
                total += p * qvalues[b, node, a]
                most = max(most, n)
            node_visits = tree.node_visits[b, node]
            mean = total / max(weight, tiny)
            mixed = (tree.node_raw_values[b, node] + (node_visits - one) * mean) / node_visits
            low = high = qvalues[b, node, 0] if visits[b, node, 0] > zero else mixed
            for a in range(num_actions):
                q = qvalues[b, node, a] if visits[b, node, a] > zero else mixed
                scores[b, a] = q
                low = min(low, q)
                high = max(high, q)
            scale = (most + maxvisit_init) * value_scale / max(high - low, floor)
            top = logits[b, node, 0]
            if node == 0:
                for a in range(num_actions):
                    top = max(top, logits[b, node, a])
                considered = rule.considered_visits[b, num_nodes - 1]
                for a in range(num_actions):
                    score = rule.gumbel[b, a] + (logits[b, node, a] - top) + (scores[b, a] - low) * scale
                    dropped = visits[b, node, a] != considered or tree.root_invalid_actions[b, a]
                    scores[b, a] = -np.inf if dropped else max(score, lowest)
            else:
                top += (scores[b, 0] - low) * scale
                for a in range(num_actions):
                    scores[b, a] = logits[b, node, a] + (scores[b, a] - low) * scale
                    top = max(top, scores[b, a])
                total = zero
                for a in range(num_actions):
                    scores[b, a] = math.exp(scores[b, a] - top)
                    total += scores[b, a]
                for a in range(num_actions):
                    dropped = tree.mask_below_root and tree.root_invalid_actions[b, a]
                    score = scores[b, a] / total - visits[b, node, a] / node_visits
                    scores[b, a] = -np.inf if dropped else score
            action = _best(scores, tree.tie_seeds, b, node, num_nodes)
            child = children[b, node, action]
            # A child comes after its parent: the walk ends even in a tree that something else has spoilt.
            if child <= node:
                break
            node = child
        tree.parent[b] = node
        tree.row[b] = node * num_trees + b
        tree.reset[b] = tree.horizon > 0 and tree.node_depths[b, node] % tree.horizon == 0
        tree.actions[num_nodes, b] = action


@_jit
def update(tree, output, leaf, start, stop):
    """Expand node ``leaf`` of trees ``start`` to ``stop`` and refresh the path above it."""
    zero, one, discount = tree.constants[0], tree.constants[1], tree.constants[2]
    children_visits, children_qvalues = tree.children_visits, tree.children_qvalues
    node_visits, value_sums, rewards = tree.node_visits, tree.node_value_sums, tree.node_rewards
    parents, edges = tree.parents, tree.parent_edges
    num_actions = tree.scores.shape[1]
    for b in range(start, stop):
        parent, action = tree.parent[b], tree.actions[leaf, b]
        depth = tree.node_depths[b, parent] + 1
        reward, value = output.reward[b], output.value[b]
        if tree.horizon > 0:
            tree.node_prefix_bases[b, leaf] = zero if depth % tree.horizon == 0 else reward
            reward = reward - tree.node_prefix_bases[b, parent]
        node_visits[b, leaf] = one
        value_sums[b, leaf] = value
        rewards[b, leaf] = reward
        tree.node_raw_values[b, leaf] = value
        tree.node_depths[b, leaf] = depth
        parents[b, leaf] = parent
        edges[b, leaf] = parent * num_actions + action
        tree.children_index[b, parent, action] = leaf
        for a in range(num_actions):
            tree.children_index[b, leaf, a] = -1
            children_visits[b, leaf, a] = zero
            children_qvalues[b, leaf, a] = zero
            tree.children_prior_logits[b, leaf, a] = output.prior_logits[b, a]
            tree.children_prior[b, leaf, a] = output.prior[b, a]
        node = leaf
        while node != 0:
            # The sums of this node are complete here: its return was added from below.
            visits, reward = node_visits[b, node], rewards[b, node]
            qvalue = reward + discount * (value_sums[b, node] / visits)
            tree.node_qvalues[b, node] = qvalue
            parent = parents[b, node]
            action = edges[b, node] - parent * num_actions
            children_qvalues[b, parent, action] = qvalue
            children_visits[b, parent, action] = visits
            value = reward + discount * value
            value_sums[b, parent] += value
            node_visits[b, parent] += one
            node = parent if parent < node else 0


@_jit
def step_puct(tree, rule, output, leaf, start, stop):
    """:func:`update`, then :func:`select_puct`."""
    for first in range(start, stop, _BLOCK):
        last = min(first + _BLOCK, stop)
        update(tree, output, leaf, first, last)
        select_puct(tree, rule, leaf + 1, first, last)


@_jit
def step_gumbel(tree, rule, output, leaf, start, stop):
    """:func:`update`, then :func:`select_gumbel`."""
    for first in range(start, stop, _BLOCK):
        last = min(first + _BLOCK, stop)
        update(tree, output, leaf, first, last)
        select_gumbel(tree, rule, leaf + 1, first, last)


@_jit_parallel
def step_puct_parallel(tree, rule, output, leaf, num_threads):
    """:func:`step_puct` of all trees on several threads."""
    trees = tree.scores.shape[0]
    for i in prange(num_threads):
        step_puct(tree, rule, output, leaf, i * trees // num_threads, (i + 1) * trees // num_threads)


@_jit_parallel
def step_gumbel_parallel(tree, rule, output, leaf, num_threads):
    """:func:`step_gumbel` of all trees on several threads."""
    trees = tree.scores.shape[0]
    for i in prange(num_threads):
        step_gumbel(tree, rule, output, leaf, i * trees // num_threads, (i + 1) * trees // num_threads)


@_jit
def gather_rows(pool, row, reset, resets, out, start, stop):
    """Copy row ``row[b]`` of the pool to ``out[b]``, or zeros where ``reset[b]`` if this entry ``resets``."""
    size = out.shape[1]
    for b in range(start, stop):
        if resets and reset[b]:
            for i in range(size):
                out[b, i] = 0
        else:
            place = row[b]
            for i in range(size):
                out[b, i] = pool[place, i]


@_jit_parallel
def gather_rows_parallel(pool, row, reset, resets, out, num_threads):
    """:func:`gather_rows` of all rows on several threads."""
    rows = out.shape[0]
    for i in prange(num_threads):
        gather_rows(pool, row, reset, resets, out, i * rows // num_threads, (i + 1) * rows // num_threads)
