"""How much memory a search takes, before it is started."""

from __future__ import annotations

import torch

from xtra_rl.search.embeddings import leaves_of
from xtra_rl.search.tree import node_bytes
from xtra_rl.search.types import Embedding


def search_bytes(
    batch_size: int,
    num_actions: int,
    num_simulations: int,
    embedding: Embedding,
    dtype: torch.dtype = torch.float32,
) -> int:
    r"""Bytes of the trees and latents of a search; what the network takes comes on top.

    .. math:: B\,[(N+1)(6 f + 12 + A (4 f + 4)) + (N + 1) L]

    Counted from the arrays (kernels/README.md), with f bytes a float of ``dtype``, and L bytes a root's latents: the
    pool holds N of them, a read buffer one more.

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
    latent = sum(leaf[0].numel() * leaf.element_size() for leaf in leaves_of(embedding).values())
    return batch_size * (num_simulations + 1) * (node_bytes(num_actions, dtype) + latent)
