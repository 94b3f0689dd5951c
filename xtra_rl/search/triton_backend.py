"""The GPU backend: tree operations in one Triton kernel a simulation, without a word to the host."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from xtra_rl.search.backends import Rule, Selection
from xtra_rl.search.gumbel import LOWEST_SCORE, GumbelRule
from xtra_rl.search.puct import SIBLING_RANGE_FLOOR, PuctRule, exploration_weights
from xtra_rl.search.tree import SearchTree
from xtra_rl.search.types import RecurrentOutput

#: Arrays of a :class:`SearchTree` in the order of the kernel's arguments.
TREE_ARRAYS = (
    "node_visits",
    "node_value_sums",
    "node_raw_values",
    "node_rewards",
    "node_qvalues",
    "node_prefix_bases",
    "node_depths",
    "parents",
    "parent_edges",
    "children_index",
    "children_prior_logits",
    "children_prior",
    "children_visits",
    "children_qvalues",
)
_GATHER_BLOCK = 1024


def why_unavailable(device: torch.device) -> str | None:
    """Why Triton cannot search on a device, as a sentence with the way out; None if it can."""
    if find_spec("triton") is None:
        return "the backend 'triton' needs the package triton: pip install triton, or use backend='auto'."
    if device.type == "cuda" or _is_interpreted():
        return None
    gpu = "move model and roots to 'cuda'" if torch.cuda.is_available() else "there is none here"
    return f"the backend 'triton' searches on a GPU, but the roots are on {device} ({gpu}): use 'numba' or 'auto'."


def _is_interpreted() -> bool:
    """Whether Triton runs its kernels in Python, as the kernels' tests have it do."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


class TritonSteps:
    """:class:`~xtra_rl.search.backends.Steps` for :class:`PuctRule` and :class:`GumbelRule` on a GPU.

    It works on the arrays of the tree in place, one kernel launch for each call, and never waits for the device: a
    whole search can be captured in a CUDA graph (:class:`~xtra_rl.search.cuda_graph.SearchGraph`).

    Args:
        tree: the trees.
        rule: scores actions.
        trees_per_program: trees that one program takes, a power of two; None = one on a GPU, where a warp is a
            tree, and all of them in the interpreter, which pays for each program.

    Raises:
        ValueError: if Triton cannot work on the tree's device, the rule is none of the two, or the tree has 2^31
            edges or more.
    """

    def __init__(self, tree: SearchTree, rule: Rule, trees_per_program: int | None = None) -> None:
        device = tree.node_visits.device
        if reason := why_unavailable(device):
            raise ValueError(reason)
        edges = tree.children_index.numel()
        if edges >= 2**31:
            raise ValueError(
                f"the trees have {edges} edges, and the kernels count with 32 bits: search at most "
                f"{2**31 // (edges // tree.batch_size)} roots at once (max_roots of the planner)."
            )
        self._batch_size, self._num_nodes = tree.batch_size, tree.num_nodes
        if trees_per_program is None:
            trees_per_program = _power_of_two(tree.batch_size) if _is_interpreted() else 1
        self._trees_per_program = trees_per_program
        self._horizon = tree.value_prefix_horizon or 0
        self._mask_below_root = tree.mask_below_root
        self._tree = [getattr(tree, name) for name in TREE_ARRAYS]
        self._invalid = tree.root_invalid_actions.contiguous()
        self._seeds = tree.tie_seeds
        selected = torch.zeros((2, tree.batch_size), dtype=torch.int64, device=device)
        self._parent, self._row = selected.unbind()
        # A row for each simulation: a model may keep the actions that it was asked about.
        self._actions = selected.new_zeros((tree.num_nodes, tree.batch_size))
        self._action_rows = self._actions.unbind()
        # Stands in for arrays that a variant does not read.
        like = tree.node_visits
        self._nothing = [like.new_zeros(tree.batch_size)] * 2 + [
            like.new_zeros(tree.batch_size, tree.num_actions)
        ]
        self._rule, self._table, self._gumbel, self._constants = _rule_arrays(tree, rule)

    def select(self) -> Selection:
        self._launch(self._nothing, 0, update=False, rule=self._rule)
        return Selection(self._parent, self._action_rows[1], self._row)

    def update(self, output: RecurrentOutput, leaf: int) -> None:
        self._launch(_contiguous(output), leaf, update=True, rule="none")

    def update_and_select(self, output: RecurrentOutput, leaf: int) -> Selection:
        self._launch(_contiguous(output), leaf, update=True, rule=self._rule)
        return Selection(self._parent, self._action_rows[leaf + 1], self._row)

    def _launch(self, output: Sequence[Tensor], leaf: int, update: bool, rule: str) -> None:
        search_step(
            self._tree,
            [self._parent, self._row, self._actions],
            self._invalid,
            self._seeds,
            list(output),
            self._table,
            self._gumbel,
            self._constants,
            leaf,
            update,
            rule,
            self._horizon,
            self._mask_below_root,
            self._trees_per_program,
        )


def _rule_arrays(tree: SearchTree, rule: Rule) -> tuple[str, Tensor, Tensor, Tensor]:
    """Name of the kernel's variant, its table, Gumbel noise and constants."""
    like = tree.node_visits
    tiny = torch.finfo(like.dtype).tiny
    if isinstance(rule, PuctRule):
        by_tree = rule.q_normalization == "tree"
        name = "puct_tree" if by_tree else "puct_siblings"
        floor = rule.value_delta_max if by_tree else SIBLING_RANGE_FLOOR
        visits = torch.arange(tree.num_nodes + 1, dtype=like.dtype, device=like.device)
        table, gumbel = exploration_weights(visits, rule.pb_c_init, rule.pb_c_base), like
        scale = init = 0.0
    elif isinstance(rule, GumbelRule):
        name, floor = "gumbel", rule.rescale_floor
        table, gumbel = rule.considered_visits.to(like).contiguous(), rule.gumbel.to(like).contiguous()
        scale, init = rule.value_scale, rule.maxvisit_init
    else:
        raise ValueError(f"the backend 'triton' knows no {type(rule).__name__}: use 'reference'.")
    constants = (tree.discount, floor, scale, init, tiny, LOWEST_SCORE)
    return name, table, gumbel, torch.tensor(constants, dtype=like.dtype).to(like.device, non_blocking=True)


def _contiguous(output: RecurrentOutput) -> list[Tensor]:
    return [part.contiguous() for part in output]


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


@torch.library.custom_op("xtra_rl::search_step", mutates_args=("tree", "selection"))
def search_step(
    tree: list[Tensor],
    selection: list[Tensor],
    root_invalid_actions: Tensor,
    tie_seeds: Tensor | None,
    output: list[Tensor],
    table: Tensor,
    gumbel: Tensor,
    constants: Tensor,
    leaf: int,
    update: bool,
    rule: str,
    horizon: int,
    mask_below_root: bool,
    trees_per_program: int,
) -> None:
    """Kernel :func:`xtra_rl.kernels.search_kernels.search_step` as an operator of PyTorch.

    Args:
        tree: the arrays ``TREE_ARRAYS``.
        selection: parent ``[B]``, row ``[B]`` and actions ``[N, B]``, int64.
        root_invalid_actions: ``[B, A]`` bool.
        tie_seeds: ``[B]`` int64 or None.
        output: reward ``[B]``, value ``[B]`` and prior logits ``[B, A]`` of the leaf.
        table: exploration weights ``[N + 1]`` (pUCT) or considered visits ``[B, N - 1]`` (Gumbel).
        gumbel: ``[B, A]``; any tensor for pUCT.
        constants: discount, range floor, value scale, maxvisit init, smallest normal number, lowest score.
        leaf: node to add; 0 to select from the roots.
        update: whether to add the leaf.
        rule: "none", "puct_tree", "puct_siblings" or "gumbel".
        horizon: of the value prefix; 0 = plain rewards.
        mask_below_root: whether those actions are illegal in the whole tree.
        trees_per_program: see :class:`TritonSteps`.
    """
    from xtra_rl.kernels import search_kernels as kernels

    batch_size, num_nodes, num_actions = tree[TREE_ARRAYS.index("children_index")].shape
    select = {
        "none": kernels.SELECT_NONE,
        "puct_tree": kernels.SELECT_PUCT_TREE,
        "puct_siblings": kernels.SELECT_PUCT_SIBLINGS,
        "gumbel": kernels.SELECT_GUMBEL,
    }[rule]
    kernels.search_step[(-(-batch_size // trees_per_program),)](
        *tree,
        root_invalid_actions,
        selection[0] if tie_seeds is None else tie_seeds,
        *output,
        *selection,
        table,
        gumbel,
        constants,
        batch_size,
        leaf,
        N=num_nodes,
        A=num_actions,
        PN=_power_of_two(num_nodes),
        PA=_power_of_two(num_actions),
        G=trees_per_program,
        HORIZON=horizon,
        MASK_BELOW_ROOT=mask_below_root,
        UPDATE=update,
        SELECT=select,
        TIES=tie_seeds is not None,
        num_warps=1 if trees_per_program == 1 else 4,
        enable_fp_fusion=False,
    )


@search_step.register_fake
def _(*args: object) -> None:
    return None


@torch.library.custom_op("xtra_rl::gather_latents", mutates_args=("out",))
def gather_latents(
    pool: Tensor, out: Tensor, parent: Tensor, row: Tensor, node_depths: Tensor, horizon: int
) -> None:
    """Kernel :func:`xtra_rl.kernels.search_kernels.gather_latents` as an operator of PyTorch.

    Args:
        pool: ``[N * B, ...]``, contiguous.
        out: ``[B, ...]``, contiguous.
        parent: ``[B]`` int64 node.
        row: ``[B]`` int64, ``parent * B + b``.
        node_depths: ``[B, N]`` int32.
        horizon: depth at whose multiples zeros are read; 0 = never.
    """
    from xtra_rl.kernels import search_kernels as kernels

    size = out[0].numel()
    block = min(_power_of_two(size), _GATHER_BLOCK)
    kernels.gather_latents[(len(out), -(-size // block))](
        pool,
        out,
        parent,
        row,
        node_depths,
        N=node_depths.shape[1],
        SIZE=size,
        BLOCK=block,
        HORIZON=horizon,
        num_warps=4,
        enable_fp_fusion=False,
    )


@gather_latents.register_fake
def _(*args: object) -> None:
    return None
