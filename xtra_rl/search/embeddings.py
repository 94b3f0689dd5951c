"""Storage for the latent states of all nodes of a search."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from xtra_rl.search.types import Embedding

_WHOLE = ""


class EmbeddingPool:
    """Latents of ``num_nodes`` nodes in ``B`` trees, allocated once.

    The pool is node-major, ``[num_nodes, B, ...]``: the leaves of one simulation have the same node index in
    every tree, so a write is one contiguous copy, and a read is one ``index_select`` for each tensor of the
    embedding. Latents keep the dtype of the root's, also when a model under autocast returns another.

    Args:
        embedding: latents of the roots: a tensor ``[B, ...]`` or a TensorDict with batch size ``[B]``.
        num_nodes: nodes of each tree that can become a parent.
    """

    def __init__(self, embedding: Embedding, num_nodes: int) -> None:
        self._is_tensor = isinstance(embedding, Tensor)
        leaves = _leaves(embedding)
        self._pool = {key: leaf.new_empty((num_nodes, *leaf.shape)) for key, leaf in leaves.items()}
        first = next(iter(leaves.values()))
        self._batch_size = first.shape[0]
        self._rows = torch.arange(self._batch_size, device=first.device)
        self.write(0, embedding)

    def write(self, node: int, embedding: Embedding) -> None:
        """Store the latents of one node of every tree.

        Raises:
            ValueError: if the embedding has other keys or shapes than the root's.
        """
        leaves = _leaves(embedding)
        if leaves.keys() != self._pool.keys():
            raise ValueError(
                f"the next embedding of recurrent_fn has the entries {_names(leaves)}, but the root "
                f"embedding has {_names(self._pool)}: both must have the same structure."
            )
        for key, leaf in leaves.items():
            slot = self._pool[key][node]
            if slot.shape != leaf.shape:
                where = f" entry {key!r}" if key != _WHOLE else ""
                raise ValueError(
                    f"the next embedding of recurrent_fn{where} has shape {list(leaf.shape)}, but the root "
                    f"embedding has {list(slot.shape)}: both must be equal."
                )
            slot.copy_(leaf)

    def read(self, nodes: Tensor) -> Embedding:
        """Latents of node ``nodes[b]`` of each tree ``b``."""
        index = torch.add(self._rows, nodes, alpha=self._batch_size)
        leaves = {key: pool.flatten(0, 1).index_select(0, index) for key, pool in self._pool.items()}
        return leaves[_WHOLE] if self._is_tensor else _nest(leaves, self._batch_size)


def _leaves(embedding: Embedding) -> dict[NestedKey, Tensor]:
    if isinstance(embedding, TensorDictBase):
        return dict(embedding.items(include_nested=True, leaves_only=True))
    return {_WHOLE: embedding}


def _nest(leaves: dict[NestedKey, Tensor], batch_size: int) -> TensorDictBase:
    nested: dict[str, Any] = {}
    for key, leaf in leaves.items():
        *outer, last = (key,) if isinstance(key, str) else key
        level = nested
        for name in outer:
            level = level.setdefault(name, {})
        level[last] = leaf
    return TensorDict(nested, batch_size=[batch_size])


def _names(leaves: dict[NestedKey, Tensor]) -> list[str]:
    return ["a plain tensor" if key == _WHOLE else str(key) for key in leaves]
