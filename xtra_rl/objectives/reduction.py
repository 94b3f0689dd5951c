"""What all losses do with the loss of each sample: weigh it, reduce it, average it by task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


def check_reduction(reduction: str) -> None:
    """Refuse an unknown reduction.

    Raises:
        ValueError: if it is none of ``mean``, ``sum`` and ``none``.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction is {reduction!r}; expected 'mean', 'sum' or 'none'")


def reduce(x: Tensor, reduction: Reduction) -> Tensor:
    """Mean or sum of ``x [B]``, or ``x`` itself."""
    if reduction == "none":
        return x
    return x.mean() if reduction == "mean" else x.sum()


def sample_weight(tensordict: TensorDictBase, keys: Sequence[NestedKey], like: Tensor) -> Tensor:
    """Product of those weights ``[B]`` that the batch has.

    Raises:
        ValueError: if one has another shape, which broadcasting would hide.
    """
    weight = torch.ones_like(like)
    for key in keys:
        factor = tensordict.get(key, None)
        if factor is not None:
            check_vector(key, factor, like)
            weight = weight * factor
    return weight


def check_vector(key: NestedKey, values: Tensor, like: Tensor) -> None:
    """Refuse what is not one number a sample.

    Raises:
        ValueError: if the shapes of ``values`` and ``like`` differ.
    """
    if values.shape != like.shape:
        shapes = f"{list(values.shape)}; expected {list(like.shape)}"
        raise ValueError(f"{key!r} has shape {shapes}, one for each sample, without a dimension of 1")


def task_means(x: Tensor, task_id: Tensor, num_tasks: int) -> Tensor:
    """Mean of ``x [B]`` over the samples of each task, ``[M]``; 0 for a task without samples."""
    counts = torch.bincount(task_id, minlength=num_tasks).clamp(min=1)
    return torch.zeros(num_tasks, dtype=x.dtype, device=x.device).index_add(0, task_id, x) / counts
