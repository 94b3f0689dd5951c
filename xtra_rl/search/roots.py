"""From the caller's roots to the tree's and back: checks, masks, dtype."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xtra_rl.search import checks
from xtra_rl.search.ties import draw_tie_seeds
from xtra_rl.search.tree import SearchTree
from xtra_rl.search.types import Embedding, SearchResult


class Roots(NamedTuple):
    """Checked roots in the dtype of the search."""

    prior_logits: Tensor  # [B, A], -inf for illegal actions
    value: Tensor  # [B]
    invalid_actions: Tensor  # [B, A]
    tie_seeds: Tensor | None  # [B] int64


def prepare_roots(
    prior_logits: Tensor,
    value: Tensor,
    embedding: Embedding,
    invalid_actions: Tensor | None,
    generator: torch.Generator | None,
    tie_seeds: Tensor | None = None,
) -> Roots:
    """Check and mask the roots; with a generator and no seeds, draw seeds that break ties at random."""
    checks.check_roots(prior_logits, value, embedding)
    invalid = checks.check_legal(prior_logits, invalid_actions)
    dtype = torch.promote_types(torch.promote_types(prior_logits.dtype, value.dtype), torch.float32)
    logits = prior_logits.to(dtype).masked_fill(invalid, -torch.inf)
    if tie_seeds is not None:
        checks.check_shape("tie_seeds", tie_seeds, [len(value)])
    elif generator is not None:
        tie_seeds = draw_tie_seeds(len(value), generator, value.device)
    return Roots(logits, value.to(dtype), invalid, tie_seeds)


def search_result(tree: SearchTree, action_weights: Tensor, action: Tensor) -> SearchResult:
    """Statistics of the roots."""
    root = SearchTree.ROOT
    return SearchResult(
        visit_counts=tree.children_visits[:, root].long(),
        root_value=tree.node_values[:, root],
        qvalues=tree.children_qvalues[:, root].clone(),
        action_weights=action_weights,
        action=action,
        depth=tree.node_depths[:, 1:].to(action_weights.dtype).mean(dim=-1),
        entropy=torch.special.entr(action_weights).sum(dim=-1),
        tree=tree,
    )
