"""The loop of every search: select, ask the model, expand, back up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xtra_rl.search import checks
from xtra_rl.search.backends import BACKENDS, Rule
from xtra_rl.search.embeddings import EmbeddingPool, PoolMemory
from xtra_rl.search.roots import Roots
from xtra_rl.search.tree import SearchTree, set_roots, tree_from_root
from xtra_rl.search.types import Embedding, RecurrentFn, RecurrentOutput


class SearchOptions(NamedTuple):
    """What a search is told beside its roots and its rule."""

    num_simulations: int
    discount: float
    value_prefix_horizon: int | None
    reset_entries: tuple[str, ...]
    mask_below_root: bool


class Simulation:
    """Tree, latents and tree operations of one search, or of many with the same shapes.

    Args:
        roots: checked roots.
        prior: ``[B, A]`` probabilities at the root, noise included.
        embedding: latents of the roots.
        rule: scores actions.
        options: see :class:`SearchOptions`.
        backend: name in :data:`~xtra_rl.search.backends.BACKENDS`.
        memory: keeps the latents' memory from one simulation to the next, which must not overlap in time.
    """

    def __init__(
        self,
        roots: Roots,
        prior: Tensor,
        embedding: Embedding,
        rule: Rule,
        options: SearchOptions,
        backend: str,
        memory: PoolMemory | None = None,
    ) -> None:
        self.tree = tree_from_root(
            roots.prior_logits,
            prior,
            roots.value,
            roots.invalid_actions,
            mask_below_root=options.mask_below_root,
            num_simulations=options.num_simulations,
            discount=options.discount,
            value_prefix_horizon=options.value_prefix_horizon,
            tie_seeds=roots.tie_seeds,
        )
        self.rule = rule
        self._pool = EmbeddingPool(
            embedding,
            options.num_simulations,
            options.reset_entries,
            backend=backend,
            memory=memory,
        )
        self._steps = BACKENDS[backend](self.tree, rule)

    def restart(self, roots: Roots, prior: Tensor, embedding: Embedding) -> None:
        """Take other roots of the same shape, in the same memory."""
        set_roots(self.tree, roots.prior_logits, prior, roots.value)
        self.tree.root_invalid_actions.copy_(roots.invalid_actions)
        if self.tree.tie_seeds is not None and roots.tie_seeds is not None:
            self.tree.tie_seeds.copy_(roots.tie_seeds)
        self._pool.write(SearchTree.ROOT, embedding)

    def run(self, recurrent_fn: RecurrentFn) -> None:
        """Grow the trees: the leaf of simulation ``i`` becomes node ``i`` of each, the root is node 0."""
        tree, pool, steps = self.tree, self._pool, self._steps
        selection = steps.select()
        for leaf in range(1, tree.num_nodes):
            embedding = pool.read(selection, tree)
            output, next_embedding = recurrent_fn(selection.action, embedding)
            checks.check_recurrent_output(output, tree.batch_size, tree.num_actions)
            if tree.mask_below_root:
                logits = output.prior_logits.masked_fill(tree.root_invalid_actions, -torch.inf)
                output = RecurrentOutput(output.reward, output.value, logits)
            if leaf == tree.num_nodes - 1:
                steps.update(output, leaf)
            else:
                pool.write(leaf, next_embedding)
                selection = steps.update_and_select(output, leaf)
