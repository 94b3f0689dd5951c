"""Storage for the latent states of all nodes of a search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from xtra_rl.cpu_threads import numba_threads
from xtra_rl.search.backends import Selection
from xtra_rl.search.tree import SearchTree
from xtra_rl.search.types import Embedding

_WHOLE = ""
#: Bytes that are worth a thread.
_BYTES_PER_THREAD = 2**18


class PoolMemory:
    """Memory that a caller keeps from search to search, so that the pages of a large pool are fetched once.

    At 256 roots and 50 simulations of EfficientZero a pool takes 170 MB, and fresh pages for it a twentieth of the time
    of a search on two CPU cores.

    Example:
        >>> from xtra_rl.search import RecurrentOutput, gumbel_search
        >>> def step(action, embedding):
        ...     return RecurrentOutput(torch.zeros(1), torch.zeros(1), torch.zeros(1, 2)), embedding
        >>> memory = PoolMemory()
        >>> for _ in range(2):  # the second search finds the memory of the first
        ...     result = gumbel_search(torch.zeros(1, 2), torch.zeros(1), torch.zeros(1, 3), step, memory=memory)
        >>> result.visit_counts.sum().item()
        50
    """

    def __init__(self) -> None:
        self._blocks: dict[NestedKey, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy begins empty: in another process the blocks would be shared memory, where searches collide."""
        return {"_blocks": {}}

    def empty(self, name: NestedKey, shape: Sequence[int], like: Tensor) -> Tensor:
        """Uninitialised ``[*shape]`` with dtype and device of ``like``, in the block of that name, which grows."""
        size = math.prod(shape) * like.element_size()
        block = self._blocks.get(name)
        if block is None or block.device != like.device or block.numel() < size:
            # The old block goes first: both may not fit.
            self._blocks.pop(name, None)
            self._blocks[name] = block = torch.empty(size, dtype=torch.uint8, device=like.device)
        return block[:size].view(like.dtype).view(*shape)


class EmbeddingPool:
    """Latents of ``num_nodes`` nodes in ``B`` trees, allocated once.

    The pool is node-major, ``[num_nodes, B, ...]``: the leaves of one simulation have the same node index in
    every tree, so a write is one contiguous copy, and a read is one ``index_select`` for each tensor of the
    embedding. Latents keep the dtype and the memory format of the root's, also when a model under autocast
    returns another.

    Args:
        embedding: latents of the roots: a tensor ``[B, ...]`` or a TensorDict with batch size ``[B]``.
        num_nodes: nodes of each tree that can become a parent.
        reset_entries: entries that are read as zero where the LSTM is reset, that is for parents whose depth is
            divisible by the tree's ``value_prefix_horizon``.
        backend: of the search: "numba" and "triton" read with kernels of theirs, which reset in the same pass.
        memory: where to put the pool; None = in memory of its own.

    Raises:
        ValueError: if ``reset_entries`` names what the embedding does not have.
    """

    def __init__(
        self,
        embedding: Embedding,
        num_nodes: int,
        reset_entries: Sequence[str] = (),
        *,
        backend: str = "reference",
        memory: PoolMemory | None = None,
    ) -> None:
        leaves = leaves_of(embedding)
        for key in reset_entries:
            if key not in leaves:
                raise ValueError(f"reset_entries names {key!r}, but the embedding has {_names(leaves)}.")
        self._reset_entries = reset_entries
        self._backend = backend
        memory = memory or PoolMemory()
        self._slots = {key: _empty(leaf, num_nodes, memory, key) for key, leaf in leaves.items()}
        # What read() returns is allocated once too: a fresh megabyte costs more than the copy into it.
        self._read = {key: torch.empty_like(pool[0]) for key, pool in self._slots.items()}
        self._flat = {
            key: (_channels_last(pool.flatten(0, 1)), _channels_last(self._read[key]))
            for key, pool in self._slots.items()
        }
        self._nodes = {key: pool.unbind() for key, pool in self._slots.items()}
        self._bytes = {
            key: (_rows_of_bytes(pool), _rows_of_bytes(buffer), key in reset_entries)
            for key, (pool, buffer) in self._flat.items()
            if backend == "numba"
        }
        self._selected: tuple[Tensor, np.ndarray, np.ndarray] | None = None
        self._is_flat = all(isinstance(key, str) for key in leaves)
        first = next(iter(leaves.values()))
        self._batch_size = first.shape[0]
        self._rows = torch.arange(self._batch_size, device=first.device)
        self._nested = None if isinstance(embedding, Tensor) else _nest(self._read, self._batch_size)
        self.write(0, embedding)

    @property
    def num_bytes(self) -> int:
        """Bytes of the pool and of its read buffers."""
        tensors = [*self._slots.values(), *self._read.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def write(self, node: int, embedding: Embedding) -> None:
        """Store the latents of one node of every tree.

        Raises:
            ValueError: if the embedding has other keys or shapes than the root's, or numbers that it cannot hold.
        """
        # Asking a TensorDict for its nested entries takes longer than a small network's layer.
        leaves = (
            dict(embedding.items())
            if self._is_flat and isinstance(embedding, TensorDictBase)
            else leaves_of(embedding)
        )
        if leaves.keys() != self._slots.keys():
            raise ValueError(
                f"the next embedding of recurrent_fn has the entries {_names(leaves)}, but the root "
                f"embedding has {_names(self._slots)}: both must have the same structure."
            )
        for key, leaf in leaves.items():
            slot = self._nodes[key][node]
            if slot.shape != leaf.shape:
                raise ValueError(
                    f"the next embedding of recurrent_fn{_entry(key)} has shape {list(leaf.shape)}, but the root "
                    f"embedding has {list(slot.shape)}: both must be equal."
                )
            if not torch.can_cast(leaf.dtype, slot.dtype):
                raise ValueError(
                    f"the next embedding of recurrent_fn{_entry(key)} is {leaf.dtype}, which the root embedding, "
                    f"{slot.dtype}, would cut off: give the root that dtype."
                )
            slot.copy_(leaf)

    def read(self, selection: Selection, tree: SearchTree) -> Embedding:
        """Latents of the selected parents, valid until the next call."""
        if self._backend == "numba":
            self._read_numba(selection)
        elif self._backend == "triton":
            self._read_triton(selection, tree)
        else:
            self._read_torch(selection, tree)
        if self._nested is None:
            return self._read[_WHOLE]
        if self._is_flat:  # a new one, which the model may add to, without TensorDict's checks
            return TensorDict._new_unsafe(
                dict(self._read), batch_size=self._nested.batch_size, device=self._nested.device
            )
        return self._nested.copy()

    def _read_torch(self, selection: Selection, tree: SearchTree) -> None:
        index = selection.row
        if index is None:
            index = torch.add(self._rows, selection.parent, alpha=self._batch_size)
        for pool, buffer in self._flat.values():
            torch.index_select(pool, 0, index, out=buffer)
        if self._reset_entries:
            reset = _resets(selection, tree)
            for key in self._reset_entries:
                buffer = self._read[key]
                buffer.masked_fill_(reset.view(-1, *(1,) * (buffer.ndim - 1)), 0)

    def _read_numba(self, selection: Selection) -> None:
        from xtra_rl.search import numba_kernels as kernels

        assert selection.row is not None
        assert selection.reset is not None
        if self._selected is None or self._selected[0] is not selection.row:
            self._selected = (selection.row, selection.row.numpy(), selection.reset.numpy())
        _, row, reset = self._selected
        for pool, buffer, resets in self._bytes.values():
            threads = (
                1 if buffer.size < 2 * _BYTES_PER_THREAD else numba_threads(buffer.size // _BYTES_PER_THREAD)
            )
            if threads == 1:
                kernels.gather_rows(pool, row, reset, resets, buffer, 0, self._batch_size)
            else:
                kernels.gather_rows_parallel(pool, row, reset, resets, buffer, threads)

    def _read_triton(self, selection: Selection, tree: SearchTree) -> None:
        from xtra_rl.search.triton_backend import gather_latents

        assert selection.row is not None
        for key, (pool, buffer) in self._flat.items():
            horizon = tree.value_prefix_horizon if key in self._reset_entries else None
            gather_latents(pool, buffer, selection.parent, selection.row, tree.node_depths, horizon or 0)


def _resets(selection: Selection, tree: SearchTree) -> Tensor:
    if selection.reset is not None:
        return selection.reset
    assert tree.value_prefix_horizon is not None
    depth = tree.node_depths.gather(1, selection.parent.unsqueeze(1)).squeeze(1)
    return depth % tree.value_prefix_horizon == 0


def _empty(leaf: Tensor, num_nodes: int, memory: PoolMemory, name: NestedKey) -> Tensor:
    """Uninitialised ``[num_nodes, *leaf.shape]``, channels-last if the leaf is."""
    pool = memory.empty(name, (num_nodes, *_channels_last(leaf).shape), leaf)
    return pool.permute(0, 1, 4, 2, 3) if _is_channels_last(leaf) else pool


def _rows_of_bytes(tensor: Tensor) -> np.ndarray:
    """View ``[rows, bytes of a row]`` of a contiguous CPU tensor, whatever its dtype."""
    return tensor.detach().reshape(len(tensor), -1).view(torch.uint8).numpy()


def _is_channels_last(leaf: Tensor) -> bool:
    return (
        leaf.ndim == 4 and not leaf.is_contiguous() and leaf.is_contiguous(memory_format=torch.channels_last)
    )


def _channels_last(leaf: Tensor) -> Tensor:
    """View of a channels-last tensor in the order of its memory; any other tensor as it is."""
    return leaf.permute(0, 2, 3, 1) if _is_channels_last(leaf) else leaf


def leaves_of(embedding: Embedding) -> dict[NestedKey, Tensor]:
    """Tensors of an embedding by their keys; a plain tensor has the empty key."""
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


def _entry(key: str) -> str:
    return f" entry {key!r}" if key != _WHOLE else ""


def _names(leaves: dict[NestedKey, Tensor]) -> list[str]:
    return ["a plain tensor" if key == _WHOLE else str(key) for key in leaves]
