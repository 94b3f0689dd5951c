"""Who does the work on the tree: the backends of a search, and the choice between them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from xtra_rl.search.tree import SearchTree
from xtra_rl.search.types import RecurrentOutput

log = logging.getLogger(__name__)

BackendName = Literal["auto", "reference", "numba", "triton"]


class Rule(Protocol):
    """A way to score actions, such as :class:`~xtra_rl.search.PuctRule`."""

    def scores(self, tree: SearchTree, num_nodes: int) -> Tensor:
        """Scores of all actions of the first ``num_nodes`` nodes, ``[B, num_nodes, A]``."""
        ...


class Selection(NamedTuple):
    """Where the next leaves grow: valid until the next call of the backend, ``action`` for ever."""

    parent: Tensor  # [B] int64
    action: Tensor  # [B] int64
    row: Tensor | None = None
    """``[B]`` int64, ``parent * B + b``: the parent's row in a node-major pool, from a backend that has it at hand."""
    reset: Tensor | None = None
    """``[B]`` bool, whether the LSTM starts anew behind the parent: its depth is divisible by the horizon; likewise."""


class Steps(Protocol):
    """The tree operations of one search, bound to its tree and its rule."""

    def select(self) -> Selection:
        """Place of the first leaf: the best action of each root."""
        ...

    def update(self, output: RecurrentOutput, leaf: int) -> None:
        """Add node ``leaf`` to each tree with what the model said about it, and back its return up."""
        ...

    def update_and_select(self, output: RecurrentOutput, leaf: int) -> Selection:
        """:meth:`update`, then the place of the leaf after it."""
        ...


def _reference(tree: SearchTree, rule: Rule) -> Steps:
    from xtra_rl.search.reference import ReferenceSteps

    return ReferenceSteps(tree, rule)


def _numba(tree: SearchTree, rule: Rule) -> Steps:
    from xtra_rl.search.numba_backend import NumbaSteps

    return NumbaSteps(tree, rule)


def _triton(tree: SearchTree, rule: Rule) -> Steps:
    from xtra_rl.search.triton_backend import TritonSteps

    return TritonSteps(tree, rule)


#: Each is called with the tree and the rule of one search.
BACKENDS: dict[str, Callable[[SearchTree, Rule], Steps]] = {
    "reference": _reference,
    "numba": _numba,
    "triton": _triton,
}
_announced: set[tuple[str, str]] = set()


def check_backend_name(name: str) -> None:
    """Require a name that :func:`resolve_backend` knows.

    Raises:
        ValueError: if there is no such backend.
    """
    if name != "auto" and name not in BACKENDS:
        names = ", ".join(repr(known) for known in ("auto", *BACKENDS))
        raise ValueError(f"backend is {name!r}, which does not exist: choose one of {names}.")


def why_unavailable(name: str, device: torch.device) -> str | None:
    """Why a backend cannot search on a device, as a sentence with the way out; None if it can."""
    if name == "numba":
        if device.type != "cpu":
            return f"the backend 'numba' searches on the CPU, but the roots are on {device}: use 'triton'."
        if find_spec("numba") is None:
            return "the backend 'numba' needs the package numba: pip install numba, or use 'reference'."
    if name == "triton":
        from xtra_rl.search.triton_backend import why_unavailable as why_no_triton

        return why_no_triton(device)
    return None


def resolve_backend(name: str, device: torch.device) -> str:
    """Name of the backend to use; "auto" takes the fastest one of the device, and logs it once.

    Raises:
        ValueError: if there is no such backend, or it cannot work on this device.
    """
    check_backend_name(name)
    if name != "auto":
        if reason := why_unavailable(name, device):
            raise ValueError(reason)
        return name
    fast = "numba" if device.type == "cpu" else "triton"
    reason = why_unavailable(fast, device)
    chosen = "reference" if reason else fast
    if (device.type, chosen) not in _announced:
        _announced.add((device.type, chosen))
        log.info("search on %s: backend %r%s", device.type, chosen, f" since {reason}" if reason else "")
    return chosen
