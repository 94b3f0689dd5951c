"""From the caller's roots to the tree's and back: checks, masks, dtype, and random tie-breaking.

Ties are broken at random by renaming the actions of each root by a random permutation: backends then may
always take the lowest of equal actions, and all of them give the same visit counts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xtra_rl.search import checks
from xtra_rl.search.tree import SearchTree, permute_actions
from xtra_rl.search.types import Embedding, RecurrentFn, RecurrentOutput, SearchResult


class Roots(NamedTuple):
    """Checked roots in the dtype of the search, with actions possibly renamed by ``order``."""

    prior_logits: Tensor  # [B, A], -inf for illegal actions
    value: Tensor  # [B]
    invalid_actions: Tensor  # [B, A]
    order: Tensor | None  # [B, A] int64, the model's action behind each action of the tree; None = the same

    def rename(self, array: Tensor) -> Tensor:
        """A ``[B, A]`` array of the caller in the tree's order and dtype."""
        array = array.to(self.value)
        return array if self.order is None else array.gather(1, self.order)


def prepare_roots(
    prior_logits: Tensor,
    value: Tensor,
    embedding: Embedding,
    invalid_actions: Tensor | None,
    generator: torch.Generator | None,
) -> Roots:
    """Check and mask the roots; with a generator, rename the actions of each by a random permutation."""
    checks.check_roots(prior_logits, value, embedding)
    invalid = checks.check_legal(prior_logits, invalid_actions)
    dtype = torch.promote_types(torch.promote_types(prior_logits.dtype, value.dtype), torch.float32)
    logits = prior_logits.to(dtype).masked_fill(invalid, -torch.inf)
    if generator is None:
        return Roots(logits, value.to(dtype), invalid, None)
    draws = torch.rand(logits.shape, generator=generator, device=generator.device)
    order = draws.argsort(dim=-1).to(logits.device)
    return Roots(logits.gather(1, order), value.to(dtype), invalid.gather(1, order), order)


def rename_model(recurrent_fn: RecurrentFn, order: Tensor | None) -> RecurrentFn:
    """The model with its actions renamed as in the tree."""
    if order is None:
        return recurrent_fn

    def renamed(action: Tensor, embedding: Embedding) -> tuple[RecurrentOutput, Embedding]:
        true_action = order.gather(1, action.unsqueeze(1)).squeeze(1)
        output, next_embedding = recurrent_fn(true_action, embedding)
        checks.check_recurrent_output(output, *order.shape)
        return output._replace(prior_logits=output.prior_logits.gather(1, order)), next_embedding

    return renamed


def search_result(
    tree: SearchTree, order: Tensor | None, action_weights: Tensor, action: Tensor
) -> SearchResult:
    """Statistics of the roots, with the caller's names of actions."""
    if order is not None:
        tree = permute_actions(tree, order)
        action_weights = torch.empty_like(action_weights).scatter_(1, order, action_weights)
        action = order.gather(1, action.unsqueeze(1)).squeeze(1)
    root = SearchTree.ROOT
    return SearchResult(
        visit_counts=tree.children_visits[:, root].long(),
        root_value=tree.node_values[:, root],
        qvalues=tree.children_qvalues[:, root].clone(),
        action_weights=action_weights,
        action=action,
        tree=tree,
    )
