"""Triton kernels of the batched tree search: one program for one tree, or for a block of trees.

:func:`search_step` is the whole of a simulation that is not the network: it adds the leaf that the model has just
evaluated, backs its return up, and walks down to the place of the next leaf. :func:`gather_latents` reads the latents
of those places. ``kernels/README.md`` derives the layout and the formulas; :mod:`xtra_rl.search.reference` is the
definition of correct.

No value that this program has written is used again before the barrier, so that no thread depends on when the store of
another one becomes visible. (In :func:`back_up` all threads load the sums that one of them then stores; only the
storing one uses what it has loaded.)
"""

from __future__ import annotations

import triton
import triton.language as tl

# What to select by; none = only add the leaf and back up.
SELECT_NONE = tl.constexpr(0)
SELECT_PUCT_TREE = tl.constexpr(1)
SELECT_PUCT_SIBLINGS = tl.constexpr(2)
SELECT_GUMBEL = tl.constexpr(3)

# Places in the array `constants`.
DISCOUNT = tl.constexpr(0)
RANGE_FLOOR = tl.constexpr(1)
VALUE_SCALE = tl.constexpr(2)
MAXVISIT_INIT = tl.constexpr(3)
TINY = tl.constexpr(4)
LOWEST_SCORE = tl.constexpr(5)


@triton.jit
def divide(x, y):
    """Quotient rounded to nearest; Triton's own ``/`` is an approximation in float32."""
    if x.dtype == tl.float32:
        return tl.div_rn(x, y)
    else:  # noqa: RET505 - both branches are known when the kernel is compiled
        return x / y


@triton.jit
def tie_keys(seed, node, num_nodes, action):
    """Keys ``[G, P]`` int32, not negative, of the actions of one node of each tree: the largest wins a tie.

    See :func:`xtra_rl.search.ties.tie_keys`.
    """
    key = seed.to(tl.uint32) + node.to(tl.uint32) * 0x9E3779B1 + num_nodes.to(tl.uint32) * 0x85EBCA77
    key = key[:, None] + action.to(tl.uint32)[None, :] * 0xC2B2AE3D
    key = key ^ (key >> 16)
    key = key * 0x7FEB352D
    key = key ^ (key >> 15)
    key = key * 0x846CA68B
    key = key ^ (key >> 16)
    return (key >> 1).to(tl.int32)


@triton.jit
def best_action(scores, seed, node, num_nodes, action, A: tl.constexpr, TIES: tl.constexpr):
    """Best action ``[G]`` of the scores ``[G, P]``, always below ``A``, also where a score is NaN."""
    candidate = scores == tl.max(scores, axis=1)[:, None]
    if TIES:
        key = tl.where(candidate, tie_keys(seed, node, num_nodes, action), -1)
        candidate = key == tl.max(key, axis=1)[:, None]
    return tl.min(tl.where(candidate, action[None, :], A - 1), axis=1)


@triton.jit
def puct_tree_values(q, visits, mean, is_root, low, scale):
    """Q values on the tree's scale ``[G, P]`` and the nodes' mean Q ``[G]``, which unvisited actions get."""
    total, count = tl.sum(q, axis=1), tl.sum(tl.minimum(visits, 1.0), axis=1)
    # Below the root the parent's mean counts as one sample more.
    share = divide(tl.full(count.shape, 1, count.dtype), count + 1)
    mean = tl.where(is_root, divide(total, count), total * share + mean * share)
    completed = tl.where(visits > 0, q, mean[:, None])
    return divide(completed - low[:, None], tl.zeros_like(q) + scale[:, None]), mean


@triton.jit
def puct_sibling_values(q, visits, node_value, floor):
    """Q values on the scale of the node's own value and its visited actions, ``[G, P]``; 0 where unvisited."""
    completed = tl.where(visits > 0, q, node_value[:, None])
    low = tl.minimum(tl.min(completed, axis=1), node_value)
    scale = tl.maximum(tl.max(completed, axis=1) - low, floor)
    stretched = divide(q - low[:, None], tl.zeros_like(q) + scale[:, None])
    return tl.where(visits > 0, stretched, 0.0)


@triton.jit
def gumbel_values(q, visits, prior, raw_value, node_visits, within, constants):
    """Completed Q values after Gumbel MuZero's monotonic transform, ``[G, P]``."""
    tiny, floor = tl.load(constants + TINY), tl.load(constants + RANGE_FLOOR)
    weight = tl.where(within, tl.maximum(prior, tiny), 0.0)
    mean = divide(
        tl.sum(weight * q, axis=1), tl.maximum(tl.sum(weight * tl.minimum(visits, 1.0), axis=1), tiny)
    )
    mixed = divide(raw_value + (node_visits - 1) * mean, node_visits)
    completed = tl.where(visits > 0, q, mixed[:, None])
    low = tl.min(tl.where(within, completed, float("inf")), axis=1)
    high = tl.max(tl.where(within, completed, float("-inf")), axis=1)
    most = tl.max(visits, axis=1)
    scale = (most + tl.load(constants + MAXVISIT_INIT)) * tl.load(constants + VALUE_SCALE)
    scale = divide(scale, tl.maximum(high - low, floor))
    return (completed - low[:, None]) * scale[:, None]


@triton.jit
def tree_range(node_qvalues, nodes, num_nodes, live, constants, PN: tl.constexpr):
    """Smallest Q value of each tree and the range of all of them, ``[G]``; the root has none."""
    node = tl.arange(0, PN)
    exists = ((node > 0) & (node < num_nodes))[None, :] & live[:, None]
    q = tl.load(node_qvalues + nodes[:, None] + node[None, :], mask=exists, other=0)
    low = tl.min(tl.where(exists, q, float("inf")), axis=1)
    high = tl.max(tl.where(exists, q, float("-inf")), axis=1)
    return low, tl.maximum(high - low, tl.load(constants + RANGE_FLOOR))


@triton.jit
def expand(
    node_raw_values,
    node_rewards,
    node_prefix_bases,
    node_depths,
    parents,
    parent_edges,
    children_index,
    children_prior_logits,
    children_prior,
    children_visits,
    children_qvalues,
    reward,
    value,
    prior_logits,
    tree,
    nodes,
    leaf,
    up,
    edge,
    live,
    lane,
    within,
    A: tl.constexpr,
    HORIZON: tl.constexpr,
):
    """Write all rows of the new node but those that :func:`back_up` writes; returns its reward and value ``[G]``."""
    F = node_rewards.dtype.element_ty
    own, edges = nodes + leaf, nodes * A
    leaf_reward = tl.load(reward + tree, mask=live, other=0).to(F)
    leaf_value = tl.load(value + tree, mask=live, other=0).to(F)
    depth = tl.load(node_depths + nodes + up, mask=live, other=0) + 1
    if HORIZON > 0:
        base = tl.where(depth % HORIZON == 0, 0.0, leaf_reward)
        leaf_reward -= tl.load(node_prefix_bases + nodes + up, mask=live, other=0)
        tl.store(node_prefix_bases + own, base, mask=live)
    tl.store(node_raw_values + own, leaf_value, mask=live)
    tl.store(node_rewards + own, leaf_reward, mask=live)
    tl.store(node_depths + own, depth, mask=live)
    tl.store(parents + own, up, mask=live)
    tl.store(parent_edges + own, edge, mask=live)
    tl.store(children_index + edges + edge, tl.zeros_like(edge) + leaf, mask=live)

    own_edges = (edges + leaf * A)[:, None] + lane[None, :]
    outputs = tree[:, None] * A + lane[None, :]
    logits = tl.load(prior_logits + outputs, mask=within, other=float("-inf")).to(F)
    mass = tl.where(within, tl.exp(logits - tl.max(logits, axis=1)[:, None]), 0.0)
    prior = divide(mass, tl.zeros_like(mass) + tl.sum(mass, axis=1)[:, None])
    tl.store(children_prior + own_edges, prior, mask=within)
    tl.store(children_prior_logits + own_edges, logits, mask=within)
    tl.store(children_index + own_edges, tl.zeros_like(logits).to(tl.int32) - 1, mask=within)
    tl.store(children_visits + own_edges, tl.zeros_like(logits), mask=within)
    tl.store(children_qvalues + own_edges, tl.zeros_like(logits), mask=within)
    return leaf_reward, leaf_value


@triton.jit
def back_up(
    node_visits,
    node_value_sums,
    node_rewards,
    node_qvalues,
    parents,
    parent_edges,
    children_visits,
    children_qvalues,
    nodes,
    leaf,
    up,
    edge,
    reward,
    value,
    live,
    discount,
    A: tl.constexpr,
):
    """Add the return of the leaf to its ancestors, and refresh the statistics of the actions that lead there.

    Sums travel up in registers, since what the child has stored must not be loaded again.
    """
    edges = nodes * A
    node = tl.where(live, leaf, 0)
    visits, value_sum, returns = tl.zeros_like(value) + 1, value, value
    tl.store(node_visits + nodes + leaf, visits, mask=live)
    tl.store(node_value_sums + nodes + leaf, value_sum, mask=live)
    while tl.max(node) > 0:
        climbs = node > 0
        q = reward + discount * divide(value_sum, visits)
        tl.store(node_qvalues + nodes + node, q, mask=climbs)
        tl.store(children_qvalues + edges + edge, q, mask=climbs)
        tl.store(children_visits + edges + edge, visits, mask=climbs)
        returns = reward + discount * returns
        visits = tl.load(node_visits + nodes + up, mask=climbs, other=0) + 1
        value_sum = tl.load(node_value_sums + nodes + up, mask=climbs, other=0) + returns
        tl.store(node_visits + nodes + up, visits, mask=climbs)
        tl.store(node_value_sums + nodes + up, value_sum, mask=climbs)
        node = tl.where(climbs & (up < node), up, 0)
        climbs = node > 0
        reward = tl.load(node_rewards + nodes + node, mask=climbs, other=0)
        edge = tl.load(parent_edges + nodes + node, mask=climbs, other=0)
        up = tl.load(parents + nodes + node, mask=climbs, other=0)


@triton.jit
def gumbel_scores(
    q, visits, prior, logits, noise, raw_value, node_visits, considered, is_root, mask, constants
):
    """Scores ``[G, P]``: sequential halving at the root, the improved policy less the visits so far below it."""
    completed = gumbel_values(q, visits, prior, raw_value, node_visits, mask, constants)
    policy = logits + tl.where(is_root[:, None], 0.0, completed)
    policy = policy - tl.max(policy, axis=1)[:, None]
    at_root = tl.maximum(noise + policy + completed, tl.load(constants + LOWEST_SCORE))
    at_root = tl.where(visits == considered[:, None], at_root, float("-inf"))
    mass = tl.where(mask, tl.exp(policy), 0.0)
    below = divide(mass, tl.zeros_like(mass) + tl.sum(mass, axis=1)[:, None])
    below -= divide(visits, tl.zeros_like(visits) + node_visits[:, None])
    return tl.where(is_root[:, None], at_root, below)


@triton.jit(do_not_specialize=["batch_size", "leaf"])
def search_step(
    # The arrays of a SearchTree: nodes, shaped B x N
    node_visits,
    node_value_sums,
    node_raw_values,
    node_rewards,
    node_qvalues,
    node_prefix_bases,
    node_depths,
    parents,
    parent_edges,
    # edges, shaped B x N x A:
    children_index,
    children_prior_logits,
    children_prior,
    children_visits,
    children_qvalues,
    # of the roots, B x A and B:
    root_invalid_actions,
    tie_seeds,
    # The model's output for the leaf: [B], [B], [B, A]
    reward,
    value,
    prior_logits,
    # Selections: [B], [B], [N, B]
    parent,
    row,
    actions,
    # The rule: weight of the exploration term [N + 1] (pUCT) or considered visits [B, N - 1] (Gumbel); [B, A]; [6]
    table,
    gumbel,
    constants,
    batch_size,
    leaf,
    N: tl.constexpr,  # nodes of a tree
    A: tl.constexpr,  # actions
    PN: tl.constexpr,  # the next powers of two
    PA: tl.constexpr,
    G: tl.constexpr,  # trees of a program
    HORIZON: tl.constexpr,  # of the value prefix; 0 = plain rewards
    MASK_BELOW_ROOT: tl.constexpr,  # illegal at the root is illegal everywhere
    UPDATE: tl.constexpr,  # add node `leaf`; without, the trees have only their roots
    SELECT: tl.constexpr,
    TIES: tl.constexpr,  # break ties by tie_seeds
):
    """Add node ``leaf`` to each tree, back up, and select the place of the next one."""
    F = node_visits.dtype.element_ty
    tree = tl.program_id(0) * G + tl.arange(0, G)
    live = tree < batch_size
    nodes = tree * N
    edges = nodes * A
    lane = tl.arange(0, PA)
    within = (lane < A)[None, :] & live[:, None]

    if UPDATE:
        up = tl.load(parent + tree, mask=live, other=0).to(tl.int32)
        edge = up * A + tl.load(actions + leaf * batch_size + tree, mask=live, other=0).to(tl.int32)
        leaf_reward, leaf_value = expand(
            node_raw_values,
            node_rewards,
            node_prefix_bases,
            node_depths,
            parents,
            parent_edges,
            children_index,
            children_prior_logits,
            children_prior,
            children_visits,
            children_qvalues,
            reward,
            value,
            prior_logits,
            tree,
            nodes,
            leaf,
            up,
            edge,
            live,
            lane,
            within,
            A,
            HORIZON,
        )
        back_up(
            node_visits,
            node_value_sums,
            node_rewards,
            node_qvalues,
            parents,
            parent_edges,
            children_visits,
            children_qvalues,
            nodes,
            leaf,
            up,
            edge,
            leaf_reward,
            leaf_value,
            live,
            tl.load(constants + DISCOUNT),
            A,
        )

    if SELECT != SELECT_NONE:
        if UPDATE:
            # Stores of the update become visible to all threads of this program.
            tl.debug_barrier()
        num_nodes = leaf + 1
        roots = tree[:, None] * A + lane[None, :]
        illegal = tl.load(root_invalid_actions + roots, mask=within, other=1)
        seed = tl.zeros_like(tree)
        if TIES:
            seed = tl.load(tie_seeds + tree, mask=live, other=0).to(tl.int32)
        if UPDATE and SELECT == SELECT_PUCT_TREE:
            low, scale = tree_range(node_qvalues, nodes, num_nodes, live, constants, PN)
        mean = tl.zeros((G,), F)
        walks = live
        node = tl.zeros_like(tree)
        chosen = tl.zeros_like(tree)
        while tl.max(walks.to(tl.int32)) > 0:
            mask = within & walks[:, None]
            places = (edges + node * A)[:, None] + lane[None, :]
            visits = tl.load(children_visits + places, mask=mask, other=0)
            prior = tl.load(children_prior + places, mask=mask, other=0)
            q = tl.load(children_qvalues + places, mask=mask, other=0)
            count = tl.load(node_visits + nodes + node, mask=walks, other=1)
            is_root = node == 0
            if SELECT == SELECT_GUMBEL:
                logits = tl.load(children_prior_logits + places, mask=mask, other=float("-inf"))
                raw = tl.load(node_raw_values + nodes + node, mask=walks, other=0)
                noise = tl.load(gumbel + roots, mask=mask, other=0)
                considered = tl.load(table + tree * (N - 1) + leaf, mask=walks, other=0)
                scores = gumbel_scores(
                    q, visits, prior, logits, noise, raw, count, considered, is_root, mask, constants
                )
            else:
                weight = tl.load(table + count.to(tl.int32), mask=walks, other=0)
                scores = divide(prior * weight[:, None], visits + 1)
                # Before the first simulation there is no value to compare.
                if UPDATE and SELECT == SELECT_PUCT_TREE:
                    values, mean = puct_tree_values(q, visits, mean, is_root, low, scale)
                    scores += values
                elif UPDATE:
                    value_sum = tl.load(node_value_sums + nodes + node, mask=walks, other=0)
                    floor = tl.load(constants + RANGE_FLOOR)
                    scores += puct_sibling_values(q, visits, divide(value_sum, count), floor)
            allowed = mask & (illegal == 0)
            if not MASK_BELOW_ROOT:
                allowed = mask & ((illegal == 0) | (node > 0)[:, None])
            scores = tl.where(allowed, scores, float("-inf"))
            action = best_action(scores, seed, node, num_nodes, lane, A, TIES)
            chosen = tl.where(walks, action, chosen)
            child = tl.load(children_index + edges + node * A + action, mask=walks, other=-1)
            # A child comes after its parent, so that the walk ends even in a tree that something else has spoilt.
            walks = child > node
            node = tl.where(walks, child, node)
        tl.store(parent + tree, node.to(tl.int64), mask=live)
        tl.store(row + tree, (node * batch_size + tree).to(tl.int64), mask=live)
        tl.store(actions + num_nodes * batch_size + tree, chosen.to(tl.int64), mask=live)


@triton.jit
def gather_latents(
    pool,  # [N * B, S]
    out,  # [B, S]
    parent,  # [B]
    row,  # [B]
    node_depths,  # [B, N]
    N: tl.constexpr,
    SIZE: tl.constexpr,  # S, elements of one latent
    BLOCK: tl.constexpr,
    HORIZON: tl.constexpr,  # zeros where the depth of the parent is divisible by it; 0 = never
):
    """Copy row ``row[b]`` of the pool to ``out[b]``, or zeros where the LSTM of that node is to be reset."""
    tree = tl.program_id(0)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = place < SIZE
    latent = tl.load(pool + tl.load(row + tree) * SIZE + place, mask=mask, other=0)
    if HORIZON > 0:
        depth = tl.load(node_depths + tree * N + tl.load(parent + tree))
        latent = tl.where(depth % HORIZON == 0, tl.zeros_like(latent), latent)
    tl.store(out + tree.to(tl.int64) * SIZE + place, latent, mask=mask)
