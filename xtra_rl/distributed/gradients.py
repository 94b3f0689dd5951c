"""Every task's gradient over all ranks, for the task weights: measured and combined in parts.

A gradient of M tasks is as long as the model, M times. Each rank gets the sum of one part of every task's gradient, so
that a rank holds M / ranks of a model, takes the dot products of its part, and adds up M x M numbers with the others.
Against a sum of all gradients on every rank that is half of the traffic for many tasks: M scatters and one gather.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xtra_rl.distributed.collectives import noticing_losses, world_size


def scatter_gradients(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """This rank's part of each task's mean gradient over the ranks, ``[M, ceil(P / ranks)]``.

    Args:
        gradients: from :func:`~xtra_rl.transfer.task_gradients`, of this rank's samples.

    Example:
        Gradients of two tasks, measured and combined by a single rank:

        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> gradients = [[torch.tensor([1.0, 1.0])], [torch.tensor([2.0, 4.0])]]
        >>> part = scatter_gradients(gradients)
        >>> scattered_gram(part)
        tensor([[ 2.,  6.],
                [ 6., 20.]])
        >>> gather_combined_gradient([weight], part, torch.tensor([1.0, 0.5]))
        >>> weight.grad
        tensor([2., 3.])
        >>> dist.destroy_process_group()
    """
    size = world_size()
    total = sum(tensor.numel() for tensor in gradients[0])
    length = -(-total // size)
    part = gradients[0][0].new_empty(len(gradients), length)
    for row, tensors in zip(part, gradients, strict=True):
        flat = part.new_zeros(length * size)
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=flat[:total])
        with noticing_losses():
            dist.reduce_scatter_tensor(row, flat)
    return part.div_(size)


def scattered_gram(part: Tensor) -> Tensor:
    """Dot products of the tasks' mean gradients, ``[M, M]``, equal on all ranks."""
    gram = part @ part.mT
    with noticing_losses():
        dist.all_reduce(gram)
    return gram


def gather_combined_gradient(parameters: Sequence[nn.Parameter], part: Tensor, coefficients: Tensor) -> None:
    """Write ``sum_i coefficients[i] * gradients[i]`` into ``.grad`` on all ranks.

    Args:
        parameters: whose ``.grad`` is replaced, in the order of the gradients.
        part: from :func:`scatter_gradients`.
        coefficients: ``[M]``.
    """
    combined = part.new_empty(part.shape[1] * world_size())
    with noticing_losses():
        dist.all_gather_into_tensor(combined, coefficients.to(part) @ part)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, flat in zip(parameters, combined[: sum(sizes)].split(sizes), strict=True):
        # Fused optimisers walk raw memory, so a gradient must have the strides of its parameter (channels-last).
        parameter.grad = torch.empty_like(parameter).copy_(flat.view(parameter.shape))
