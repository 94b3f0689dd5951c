"""The pool of latents: memory that is used again, dtypes, resets."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tensordict import TensorDict

from xtra_rl.search.backends import Selection
from xtra_rl.search.embeddings import EmbeddingPool, PoolMemory
from xtra_rl.search.tree import tree_from_root


def tree_of(batch, nodes, horizon, depths=None):
    logits = torch.zeros(batch, 2)
    tree = tree_from_root(
        logits,
        logits,
        logits[:, 0],
        logits.bool(),
        num_simulations=nodes - 1,
        discount=1.0,
        value_prefix_horizon=horizon,
    )
    tree.node_depths.copy_(torch.arange(nodes) if depths is None else depths)
    return tree


def embedding(batch, seed):
    generator = torch.Generator().manual_seed(seed)
    return TensorDict(
        {
            "latent": torch.randn(batch, 4, 3, 3, generator=generator).contiguous(
                memory_format=torch.channels_last
            ),
            "lstm": {"cell": torch.randn(batch, 5, generator=generator).bfloat16()},
        },
        [batch],
    )


def test_memory_is_kept_for_a_smaller_pool_and_grows_for_a_larger_one():
    memory, like = PoolMemory(), torch.zeros(1)
    first = memory.empty("latent", (4, 3), like)
    assert memory.empty("latent", (2, 6), like).data_ptr() == first.data_ptr()
    assert memory.empty("latent", (3,), like.double()).data_ptr() == first.data_ptr()
    assert memory.empty("other", (4, 3), like).data_ptr() != first.data_ptr()
    assert memory.empty("latent", (5, 3), like).shape == (5, 3)
    assert memory.empty("latent", (0, 3), like).shape == (0, 3)


def test_a_copy_of_the_memory_begins_empty():
    memory, like = PoolMemory(), torch.zeros(1)
    first = memory.empty("latent", (4, 3), like)
    for twin in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory))):
        assert twin.empty("latent", (4, 3), like).data_ptr() != first.data_ptr()


@pytest.mark.parametrize("batch", [1, 4])
def test_searches_in_the_same_memory_read_their_own_latents(batch):
    memory, nodes = PoolMemory(), 3
    for search in range(3):
        written = [embedding(batch, 10 * search + node) for node in range(nodes)]
        pool = EmbeddingPool(written[0], nodes, memory=memory)
        for node in range(1, nodes):
            pool.write(node, written[node])
        tree = tree_of(batch, nodes, None)
        for node in range(nodes):
            read = pool.read(Selection(torch.full((batch,), node), torch.zeros(batch)), tree)
            for key in ("latent", ("lstm", "cell")):
                assert torch.equal(read[key], written[node][key])
                assert read[key].stride() == written[node][key].stride()


@pytest.mark.parametrize("known", [False, True])
def test_the_lstm_is_reset_at_the_horizon_also_when_its_state_is_nan(known):
    batch, nodes, horizon = 3, 6, 2
    spoilt = TensorDict({"latent": torch.ones(batch, 2), "cell": torch.full((batch, 4), torch.nan)}, [batch])
    pool = EmbeddingPool(spoilt, nodes, ("cell",))
    for node in range(1, nodes):
        pool.write(node, spoilt)
    parent = torch.tensor([0, 3, 4])
    reset = parent % horizon == 0 if known else None
    read = pool.read(Selection(parent, parent, None, reset), tree_of(batch, nodes, horizon))
    assert (read["cell"][[0, 2]] == 0).all()
    assert read["cell"][1].isnan().all()
    assert (read["latent"] == 1).all()
