"""BatchNorm over the samples of all ranks.

PyTorch's ``SyncBatchNorm`` does so on GPUs and is what runs there. It refuses CPU tensors, where two gloo processes
could then never be compared with one; the few lines for the CPU below close that gap.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm as _OnGPU

from xtra_rl.distributed.collectives import noticing_losses, world_size


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks, and the sum of the gradients back: every rank's loss depends on every rank's samples."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        with noticing_losses():
            dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return _SumOverRanks.forward(ctx, grad.contiguous())


class SynchronisedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What both of the classes below are; ``evaluates_as`` is the layer that they are in eval mode."""

    evaluates_as: type[nn.Module]

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, ...]``; statistics of all ranks' samples while training, the running ones otherwise."""
        if not self.training or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if x.is_cuda:
            return _OnGPU.apply(
                x, self.weight, self.bias, self.running_mean, self.running_var, self.eps, self.momentum,
                dist.group.WORLD, world_size(),
            )  # fmt: skip
        # As in PyTorch's own, statistics of halves are taken in float32: a count of samples needs more than 8 bits.
        is_half = x.dtype in (torch.bfloat16, torch.float16)
        return self._on_cpu(x.float()).to(x.dtype) if is_half else self._on_cpu(x)

    def _on_cpu(self, x: Tensor) -> Tensor:
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *(1,) * (x.ndim - 2))
        count = x.new_full((1,), x.numel() / x.shape[1])
        sums = _SumOverRanks.apply(torch.cat([x.sum(axes), count]))
        mean, count = sums[:-1] / sums[-1], sums[-1].detach()
        centred = x - mean.view(shape)
        variance = _SumOverRanks.apply(centred.square().sum(axes)) / count
        if self.running_mean is not None and self.running_var is not None:
            unbiased = variance.detach() * (count / (count - 1))
            momentum = self.momentum or 0.0  # synchronise_batch_norm lets no other in
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(unbiased, momentum)
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        return normal if self.weight is None else normal * self.weight.view(shape) + self.bias.view(shape)


class SynchronisedBatchNorm1d(SynchronisedBatchNorm, nn.BatchNorm1d):
    """BatchNorm of ``[B, C]`` over the samples of all ranks."""

    evaluates_as = nn.BatchNorm1d


class SynchronisedBatchNorm2d(SynchronisedBatchNorm, nn.BatchNorm2d):
    """BatchNorm of ``[B, C, H, W]`` over the samples of all ranks."""

    evaluates_as = nn.BatchNorm2d


_KINDS = {nn.BatchNorm1d: SynchronisedBatchNorm1d, nn.BatchNorm2d: SynchronisedBatchNorm2d}


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """Let every BatchNorm in ``module`` see the samples of all ranks; changed in place, and returned.

    Weights, statistics and the names of a ``state_dict`` stay.

    Raises:
        ValueError: for a BatchNorm without a fixed momentum or with one dimension more than images have.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        >>> len(unsynchronised_statistics(model)), len(unsynchronised_statistics(synchronise_batch_norm(model)))
        (2, 0)
    """
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and not isinstance(part, SynchronisedBatchNorm):
            if type(part) not in _KINDS or part.momentum is None:
                raise ValueError(
                    f"{part} cannot be synchronised; expected BatchNorm1d or BatchNorm2d with a momentum"
                )
            part.__class__ = _KINDS[type(part)]
    return module


def unsynchronised_statistics(module: nn.Module) -> list[Tensor]:
    """Running means and variances of the BatchNorms that are not synchronised: each rank has its own."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    own = [norm for norm in norms if not isinstance(norm, SynchronisedBatchNorm)]
    found = [statistic for norm in own for statistic in (norm.running_mean, norm.running_var)]
    return [statistic for statistic in found if statistic is not None]
