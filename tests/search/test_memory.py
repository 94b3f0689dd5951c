"""The formula for the memory of a search gives what the tensors of a search add up to."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from tensordict import TensorDict

from xtra_rl.search import search_bytes
from xtra_rl.search.embeddings import EmbeddingPool
from xtra_rl.search.tree import tree_from_root


def latents(kind, batch):
    if kind == "tensor":
        return torch.zeros(batch, 4, 3, 3)
    state = {
        "latent": torch.zeros(batch, 4, 3, 3, dtype=torch.bfloat16),
        "lstm": {"cell": torch.zeros(batch, 5)},
    }
    return TensorDict(state, [batch])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["tensor", "tensordict"])
@pytest.mark.parametrize(("batch", "actions", "simulations"), [(1, 2, 1), (3, 18, 50), (7, 5, 4)])
def test_the_formula_counts_every_tensor(dtype, kind, batch, actions, simulations):
    logits = torch.zeros(batch, actions, dtype=dtype)
    tree = tree_from_root(
        logits,
        logits,
        logits[:, 0],
        logits.bool(),
        num_simulations=simulations,
        discount=1.0,
        value_prefix_horizon=None,
    )
    arrays = [
        getattr(tree, field.name)
        for field in fields(tree)
        if field.name not in ("root_invalid_actions", "tie_seeds")
    ]
    in_tree = sum(array.numel() * array.element_size() for array in arrays if isinstance(array, torch.Tensor))
    in_pool = EmbeddingPool(latents(kind, batch), simulations).num_bytes
    assert search_bytes(batch, actions, simulations, latents(kind, 1), dtype) == in_tree + in_pool
