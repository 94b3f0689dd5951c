"""The CPU backend: tree operations compiled by numba, parallel over trees."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from xtra_rl.cpu_threads import numba_threads
from xtra_rl.search import numba_kernels as kernels
from xtra_rl.search.backends import Rule, Selection
from xtra_rl.search.gumbel import LOWEST_SCORE, GumbelRule
from xtra_rl.search.puct import SIBLING_RANGE_FLOOR, PuctRule, exploration_weights
from xtra_rl.search.tree import SearchTree
from xtra_rl.search.types import RecurrentOutput

#: Below this many trees a second thread costs more than it brings.
MIN_TREES_PER_THREAD = 32


class NumbaSteps:
    """:class:`~xtra_rl.search.backends.Steps` for :class:`PuctRule` and :class:`GumbelRule` on the CPU.

    It works on the arrays of the tree in place. Threads are as many as PyTorch may use
    (``torch.set_num_threads``), but no more than there is work for. The first search of a dtype compiles for some
    seconds; the result is cached on disk, in ``__pycache__`` or ``NUMBA_CACHE_DIR``.

    Raises:
        ValueError: if the tree is not on the CPU or the rule is none of the two.
    """

    def __init__(self, tree: SearchTree, rule: Rule) -> None:
        if tree.node_visits.device.type != "cpu":
            raise ValueError(
                "the backend 'numba' searches on the CPU: move the roots there, or use 'triton'."
            )
        self._tree = tree
        self._dtype = tree.node_visits.dtype
        nodes, batch = tree.num_nodes, tree.batch_size
        self._parent, self._row = torch.zeros((2, batch), dtype=torch.int64)
        self._reset = torch.zeros(batch, dtype=torch.bool)
        # A row for each simulation: a model may keep the actions that it was asked about.
        self._actions = torch.zeros((nodes, batch), dtype=torch.int64)
        self._action_rows = self._actions.unbind()
        # What the model says is copied to one place, whatever its dtype and layout: that takes less than looking at it.
        like = tree.node_visits
        self._reward, self._value = like.new_empty((2, batch))
        self._logits, self._prior = like.new_empty((2, batch, tree.num_actions))
        self._output = kernels.OutputArrays(
            self._reward.numpy(), self._value.numpy(), self._logits.numpy(), self._prior.numpy()
        )
        self._arrays = self._tree_arrays()
        self._threads = numba_threads(batch // MIN_TREES_PER_THREAD)
        parallel = self._threads > 1
        self._range = (self._threads,) if parallel else (0, batch)
        self._rule: kernels.PuctArrays | kernels.GumbelArrays
        if isinstance(rule, PuctRule):
            self._rule = self._puct_arrays(rule)
            self._select = kernels.select_puct
            self._step = kernels.step_puct_parallel if parallel else kernels.step_puct
        elif isinstance(rule, GumbelRule):
            self._rule = self._gumbel_arrays(rule)
            self._select = kernels.select_gumbel
            self._step = kernels.step_gumbel_parallel if parallel else kernels.step_gumbel
        else:
            raise ValueError(f"the backend 'numba' knows no {type(rule).__name__}: use 'reference'.")

    def select(self) -> Selection:
        self._select(self._arrays, self._rule, 1, 0, self._tree.batch_size)
        return Selection(self._parent, self._action_rows[1], self._row, self._reset)

    def update(self, output: RecurrentOutput, leaf: int) -> None:
        self._take(output)
        kernels.update(self._arrays, self._output, leaf, 0, self._tree.batch_size)

    def update_and_select(self, output: RecurrentOutput, leaf: int) -> Selection:
        self._take(output)
        self._step(self._arrays, self._rule, self._output, leaf, *self._range)
        return Selection(self._parent, self._action_rows[leaf + 1], self._row, self._reset)

    def _take(self, output: RecurrentOutput) -> None:
        self._reward.copy_(output.reward)
        self._value.copy_(output.value)
        self._logits.copy_(output.prior_logits)
        # PyTorch's softmax gives the bits of the reference, and is vectorised.
        torch.softmax(self._logits, dim=-1, out=self._prior)

    def _constants(self, *values: float) -> np.ndarray:
        return torch.tensor(values, dtype=self._dtype).numpy()

    def _tree_arrays(self) -> kernels.TreeArrays:
        tree = self._tree
        seeds = torch.empty(0, dtype=torch.int64) if tree.tie_seeds is None else tree.tie_seeds
        own = {
            "tie_seeds": seeds.numpy(),
            "scores": torch.empty_like(self._prior).numpy(),
            "parent": self._parent.numpy(),
            "row": self._row.numpy(),
            "reset": self._reset.numpy(),
            "actions": self._actions.numpy(),
            "constants": self._constants(0, 1, tree.discount),
            "horizon": tree.value_prefix_horizon or 0,
            "mask_below_root": tree.mask_below_root,
        }
        shared = {
            name: getattr(tree, name).contiguous().numpy()
            for name in kernels.TreeArrays._fields
            if name not in own
        }
        return kernels.TreeArrays(**shared, **own)

    def _puct_arrays(self, rule: PuctRule) -> kernels.PuctArrays:
        by_tree = rule.q_normalization == "tree"
        floor = rule.value_delta_max if by_tree else SIBLING_RANGE_FLOOR
        weights = _exploration_weights(self._tree.num_nodes + 1, self._dtype, rule.pb_c_init, rule.pb_c_base)
        return kernels.PuctArrays(weights, self._constants(floor), by_tree)

    def _gumbel_arrays(self, rule: GumbelRule) -> kernels.GumbelArrays:
        tiny = torch.finfo(self._dtype).tiny
        return kernels.GumbelArrays(
            self._array(rule.gumbel),
            self._array(rule.considered_visits),
            self._constants(rule.value_scale, rule.maxvisit_init, rule.rescale_floor, tiny, LOWEST_SCORE),
        )

    def _array(self, tensor: Tensor) -> np.ndarray:
        if tensor.dtype is not self._dtype or not tensor.is_contiguous():
            tensor = tensor.to(self._dtype).contiguous()
        return tensor.numpy()


@lru_cache(maxsize=64)
def _exploration_weights(
    num_visits: int, dtype: torch.dtype, pb_c_init: float, pb_c_base: float
) -> np.ndarray:
    visits = torch.arange(num_visits, dtype=dtype)
    return exploration_weights(visits, pb_c_init, pb_c_base).numpy()
