"""How much memory a search takes, before it is started."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase

from xtra_rl.search.types import Embedding

_NODE_VALUES, _EDGE_VALUES = 6, 4
_NODE_INDICES, _EDGE_INDICES = 3, 1


def search_bytes(
    batch_size: int,
    num_actions: int,
    num_simulations: int,
    embedding: Embedding,
    dtype: torch.dtype = torch.float32,
) -> int:
    r"""Bytes of the trees and latents of a search; what the network takes comes on top.

    .. math:: B\,[(N+1)(6 f + 12 + A (4 f + 4)) + (N + 1) L]

    with f bytes a float of ``dtype``, and L bytes a root's latents: the pool holds N of them, a read buffer one more.

    Args:
        batch_size: roots, B.
        num_actions: A.
        num_simulations: N.
        embedding: latents of any number of roots, a tensor or a TensorDict.
        dtype: of values and logits.

    Example:
        >>> search_bytes(256, 18, 50, torch.zeros(1, 64, 6, 6))
        125494272
    """
    nodes = num_simulations + 1
    number, index = dtype.itemsize, torch.int32.itemsize
    node = _NODE_VALUES * number + _NODE_INDICES * index
    edge = _EDGE_VALUES * number + _EDGE_INDICES * index
    return batch_size * nodes * (node + num_actions * edge + latent_bytes(embedding))


def latent_bytes(embedding: Embedding) -> int:
    """Bytes of the latents of one root."""
    leaves = embedding.values(True, True) if isinstance(embedding, TensorDictBase) else [embedding]
    return sum(leaf[0].numel() * leaf.element_size() for leaf in leaves)
