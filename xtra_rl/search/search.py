"""Batched latent MCTS: its two public entry points."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from xtra_rl.search import checks
from xtra_rl.search.backends import BackendName, Rule, resolve_backend
from xtra_rl.search.cuda_graph import SearchGraphs
from xtra_rl.search.embeddings import PoolMemory
from xtra_rl.search.gumbel import GumbelRule, considered_visits
from xtra_rl.search.puct import PuctRule, QNormalization, mix_root_noise
from xtra_rl.search.roots import Roots, prepare_roots, search_result
from xtra_rl.search.simulation import SearchOptions, Simulation
from xtra_rl.search.tree import SearchTree
from xtra_rl.search.types import Embedding, RecurrentFn, SearchResult


@torch.no_grad()
def puct_search(
    prior_logits: Tensor,
    value: Tensor,
    embedding: Embedding,
    recurrent_fn: RecurrentFn,
    *,
    num_simulations: int = 50,
    discount: float = 0.988054,
    invalid_actions: Tensor | None = None,
    mask_below_root: bool = False,
    root_noise: Tensor | None = None,
    exploration_fraction: float = 0.25,
    pb_c_init: float = 1.25,
    pb_c_base: float = 19652.0,
    q_normalization: QNormalization = "tree",
    value_delta_max: float = 0.01,
    value_prefix_horizon: int | None = None,
    reset_entries: Sequence[str] = (),
    backend: BackendName = "auto",
    graphs: SearchGraphs | None = None,
    memory: PoolMemory | None = None,
    generator: torch.Generator | None = None,
    tie_seeds: Tensor | None = None,
) -> SearchResult:
    """Search with MuZero's pUCT rule from ``B`` roots at once.

    MuZero (arXiv:1911.08265), appendix B; EfficientZero (arXiv:2111.00210) for "tree" normalisation and value
    prefix. Values are searched in float32, or in float64 if the inputs are.

    Args:
        prior_logits: ``[B, A]`` policy logits of the roots.
        value: ``[B]`` network value of the roots, in reward units.
        embedding: latent states of the roots, a Tensor ``[B, ...]`` or a TensorDict with batch size ``[B]``.
        recurrent_fn: ``(action [B] int64, embedding) -> (RecurrentOutput, next_embedding)``, called once for
            each simulation, without gradients.
        num_simulations: leaves added to each tree, at least 1.
        discount: of one env_step.
        invalid_actions: ``[B, A]`` bool, True = illegal at the root.
        mask_below_root: these actions are illegal in the whole tree, as where a game lacks them; else, as in mctx, all
            actions are legal below the root, where the model has to know better.
        root_noise: ``[B, A]`` Dirichlet draws over the legal actions, mixed into the root prior.
        exploration_fraction: weight of ``root_noise``.
        pb_c_init: c_1 of :class:`~xtra_rl.search.PuctRule`, the weight of the prior, at least 0.
        pb_c_base: c_2 there, above 0: visits from which on the prior weighs more.
        q_normalization: which values bring Q to [0, 1]: "tree", those of the whole tree (MuZero, EfficientZero), or
            "siblings", those of the parent and its children (mctx).
        value_delta_max: smallest range of Q that "tree" stretches to [0, 1], above 0.
        value_prefix_horizon: an int says that ``RecurrentOutput.reward`` is a value prefix whose LSTM is
            reset at every depth divisible by it.
        reset_entries: entries of the embedding that the search sets to zero before it hands them to the model, where
            the LSTM is to be reset; for a model that leaves this to the search.
        backend: implementation of the tree operations: "reference" (PyTorch, any device), "numba" (CPU), "triton"
            (GPU), or "auto", the fastest of the roots' device. All of them give the same visit counts.
        graphs: keeps the simulations as CUDA graphs from call to call, for "triton" only; see
            :class:`~xtra_rl.search.SearchGraphs` for what it asks of ``recurrent_fn``.
        memory: keeps the memory of the latents from call to call: hand the same
            :class:`~xtra_rl.search.PoolMemory` to searches that do not overlap in time.
        generator: breaks ties at random, anew in each node and simulation; None gives them to the lowest action.
        tie_seeds: ``[B]`` int64 in [0, 2^31), used to that end instead of draws from ``generator``.

    Returns:
        A :class:`~xtra_rl.search.SearchResult`; ``action`` is the most visited one.

    Raises:
        ValueError: if an argument has a wrong shape, range or name, contains NaN, or leaves a root without
            action.

    Example:
        A bandit whose second arm pays 1 and whose model is sure about nothing:

        >>> from xtra_rl.search import RecurrentOutput
        >>> def step(action, embedding):
        ...     return RecurrentOutput((action == 1).float(), torch.zeros(1), torch.zeros(1, 2)), embedding
        >>> zeros = torch.zeros(1)
        >>> result = puct_search(torch.zeros(1, 2), zeros, torch.zeros(1, 3), step, num_simulations=8)
        >>> result.action.item(), result.visit_counts.sum().item()
        (1, 8)
    """
    chosen = resolve_backend(backend, prior_logits.device)
    _check_options(num_simulations, discount, value_prefix_horizon, reset_entries)
    if q_normalization not in ("tree", "siblings"):
        raise ValueError(f"q_normalization is {q_normalization!r}, expected 'tree' or 'siblings'.")
    checks.check_range("exploration_fraction", exploration_fraction, 0, 1)
    checks.check_range("pb_c_init", pb_c_init, 0)
    checks.check_range("pb_c_base", pb_c_base, 0, open_low=True)
    checks.check_range("value_delta_max", value_delta_max, 0, open_low=True)
    roots = prepare_roots(prior_logits, value, embedding, invalid_actions, generator, tie_seeds)
    prior = roots.prior_logits.softmax(dim=-1)
    if root_noise is not None:
        checks.check_shape("root_noise", root_noise, list(prior.shape))
        checks.check_finite("root_noise", root_noise)
        noise = root_noise.to(prior).masked_fill(roots.invalid_actions, 0)
        prior = mix_root_noise(prior, noise, exploration_fraction)
    rule = PuctRule(pb_c_init, pb_c_base, q_normalization, value_delta_max)
    entries = tuple(reset_entries)
    options = SearchOptions(num_simulations, discount, value_prefix_horizon, entries, mask_below_root)
    tree = _grow(roots, prior, embedding, recurrent_fn, rule, options, chosen, graphs, memory)
    visits = tree.children_visits[:, SearchTree.ROOT]
    return search_result(tree, visits / num_simulations, visits.max(dim=-1).indices)


@torch.no_grad()
def gumbel_search(
    prior_logits: Tensor,
    value: Tensor,
    embedding: Embedding,
    recurrent_fn: RecurrentFn,
    *,
    num_simulations: int = 50,
    discount: float = 0.988054,
    invalid_actions: Tensor | None = None,
    mask_below_root: bool = False,
    max_num_considered_actions: int = 16,
    gumbel: Tensor | None = None,
    value_scale: float = 0.1,
    maxvisit_init: float = 50.0,
    rescale_floor: float = 1e-8,
    value_prefix_horizon: int | None = None,
    reset_entries: Sequence[str] = (),
    backend: BackendName = "auto",
    graphs: SearchGraphs | None = None,
    memory: PoolMemory | None = None,
    generator: torch.Generator | None = None,
    tie_seeds: Tensor | None = None,
) -> SearchResult:
    r"""Search with Gumbel MuZero from ``B`` roots at once: a policy improvement even with few simulations.

    The policy is softmax(logits + :math:`\sigma(q)`), where q are the Q values of a node, rescaled to [0, 1], and

    .. math:: \sigma(q) = (c_{visit} + \max_b N(b))\, c_{scale}\, q

    Danihelka et al., "Policy improvement by planning with Gumbel", ICLR 2022, as in mctx.

    Args:
        prior_logits: ``[B, A]`` policy logits of the roots.
        value: ``[B]`` network value of the roots, in reward units.
        embedding: latent states of the roots, a Tensor ``[B, ...]`` or a TensorDict with batch size ``[B]``.
        recurrent_fn: ``(action [B] int64, embedding) -> (RecurrentOutput, next_embedding)``, called once for
            each simulation, without gradients.
        num_simulations: leaves added to each tree, at least 1.
        discount: of one env_step, in [0, 1].
        invalid_actions: ``[B, A]`` bool, True = illegal at the root.
        mask_below_root: these actions are illegal in the whole tree, as where a game lacks them; else, as in mctx, all
            actions are legal below the root, where the model has to know better.
        max_num_considered_actions: root actions that sequential halving starts with, m, at least 1.
        gumbel: ``[B, A]`` standard Gumbel draws; None = no noise, the greedy variant.
        value_scale: c_scale, at least 0.
        maxvisit_init: c_visit, at least 0.
        rescale_floor: smallest range of a node's Q values that is stretched to [0, 1]. The default is mctx's;
            with few simulations and small rewards, a floor near the size of a reward keeps noise from being
            stretched.
        value_prefix_horizon: an int says that ``RecurrentOutput.reward`` is a value prefix whose LSTM is
            reset at every depth divisible by it.
        reset_entries: entries of the embedding that the search sets to zero where that LSTM is to be reset.
        backend: implementation of the tree operations: "reference", "numba", "triton", or "auto", the fastest of the
            roots' device.
        graphs: keeps the simulations as CUDA graphs from call to call, for "triton" only; see
            :class:`~xtra_rl.search.SearchGraphs` for what it asks of ``recurrent_fn``.
        memory: keeps the memory of the latents from call to call, for searches that do not overlap in time.
        generator: breaks ties at random, anew in each node and simulation; None gives them to the lowest action.
        tie_seeds: ``[B]`` int64 in [0, 2^31), used to that end instead of draws from ``generator``.

    Returns:
        A :class:`~xtra_rl.search.SearchResult`; ``action_weights`` is softmax(logits + transformed Q)
        and ``action`` the best of the most visited actions, with the noise of ``gumbel``.

    Raises:
        ValueError: if an argument has a wrong shape, range or name, contains NaN, or leaves a root without
            action.

    Example:
        Two simulations are enough to find the arm that pays; the prior knows nothing:

        >>> from xtra_rl.search import RecurrentOutput
        >>> def step(action, embedding):
        ...     return RecurrentOutput((action == 1).float(), torch.zeros(1), torch.zeros(1, 2)), embedding
        >>> result = gumbel_search(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 3), step, num_simulations=2)
        >>> result.action.item(), result.action_weights[0, 1] > 0.9
        (1, tensor(True))
    """
    chosen = resolve_backend(backend, prior_logits.device)
    _check_options(num_simulations, discount, value_prefix_horizon, reset_entries)
    checks.check_at_least("max_num_considered_actions", max_num_considered_actions, 1)
    checks.check_range("value_scale", value_scale, 0)
    checks.check_range("maxvisit_init", maxvisit_init, 0)
    checks.check_range("rescale_floor", rescale_floor, 0, open_low=True)
    roots = prepare_roots(prior_logits, value, embedding, invalid_actions, generator, tie_seeds)
    logits = roots.prior_logits
    noise = torch.zeros_like(logits)
    if gumbel is not None:
        checks.check_shape("gumbel", gumbel, list(logits.shape))
        checks.check_finite("gumbel", gumbel)
        noise = gumbel.to(logits)
    schedule = _considered_visits(roots.invalid_actions, max_num_considered_actions, num_simulations)
    rule = GumbelRule(noise, schedule.to(logits), value_scale, maxvisit_init, rescale_floor)
    entries = tuple(reset_entries)
    options = SearchOptions(num_simulations, discount, value_prefix_horizon, entries, mask_below_root)
    tree = _grow(
        roots, logits.softmax(dim=-1), embedding, recurrent_fn, rule, options, chosen, graphs, memory
    )

    completed = rule.completed_qvalues(tree, 1)[:, 0]
    most_visits = tree.children_visits[:, SearchTree.ROOT].amax(dim=-1, keepdim=True)
    scores = rule.root_scores(tree, completed, most_visits)
    action = scores.masked_fill(roots.invalid_actions, -torch.inf).max(dim=-1).indices
    return search_result(tree, (logits + completed).softmax(dim=-1), action)


def _grow(
    roots: Roots,
    prior: Tensor,
    embedding: Embedding,
    recurrent_fn: RecurrentFn,
    rule: Rule,
    options: SearchOptions,
    backend: str,
    graphs: SearchGraphs | None,
    memory: PoolMemory | None,
) -> SearchTree:
    """Trees with all their nodes."""
    if graphs is not None:
        if backend != "triton":
            raise ValueError(f"graphs work with the backend 'triton', but this search runs on {backend!r}.")
        tree = graphs._grow(roots, prior, embedding, recurrent_fn, rule, options)
    else:
        simulation = Simulation(roots, prior, embedding, rule, options, backend, memory)
        simulation.run(recurrent_fn)
        tree = simulation.tree
    check_finite(tree)
    return tree


def check_finite(tree: SearchTree) -> None:
    """Refuse a tree that the model has spoilt, at the price of three sums."""
    fingerprint = tree.node_rewards.sum() + tree.node_raw_values.sum() + tree.children_prior.sum()
    checks.check_finite("the reward, value or prior_logits returned by recurrent_fn", fingerprint)


def _check_options(
    num_simulations: int, discount: float, value_prefix_horizon: int | None, reset_entries: Sequence[str]
) -> None:
    checks.check_at_least("num_simulations", num_simulations, 1)
    checks.check_range("discount", discount, 0, 1)
    if value_prefix_horizon is not None:
        checks.check_at_least("value_prefix_horizon", value_prefix_horizon, 1)
    elif reset_entries:
        raise ValueError(
            f"reset_entries is {reset_entries!r}, but without value_prefix_horizon nothing is reset."
        )


def _considered_visits(
    invalid_actions: Tensor, max_num_considered_actions: int, num_simulations: int
) -> Tensor:
    """Schedule of sequential halving of each root, ``[B, num_simulations]``."""
    limit = min(max_num_considered_actions, invalid_actions.shape[1])
    num_considered = (~invalid_actions).sum(dim=-1).clamp(max=limit)
    return _schedules(limit, num_simulations, invalid_actions.device).index_select(0, num_considered)


@lru_cache(maxsize=64)
def _schedules(limit: int, num_simulations: int, device: torch.device) -> Tensor:
    """Schedules of 0 to ``limit`` considered actions, ``[limit + 1, num_simulations]``."""
    table = [considered_visits(m, num_simulations) for m in range(limit + 1)]
    return torch.tensor(table, device=device)
