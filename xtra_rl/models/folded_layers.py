"""Convolutions and linear layers with the BatchNorm and the ReLU behind them inside.

On the CPU in float32 the weights are also kept in oneDNN's own order. In a small batch reading them is most of the
time: a GEMM on the plain ones took 1.1 to 1.9 times as long for the LSTM, a convolution of 2 to 8 latents 1.2 to 1.3
times as long.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The operators that torch.compile itself emits for the CPU. Their own ReLU is not used: it turns NaN into 0.
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_convolve: Any = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
_multiply: Any = getattr(torch.ops.mkldnn, "_linear_pointwise", None)

Norm = nn.BatchNorm1d | nn.BatchNorm2d


def scale_and_shift(norm: Norm) -> tuple[Tensor, Tensor]:
    """``norm(x) = x * scale + shift`` in eval mode, both ``[C]``.

    Raises:
        ValueError: if the norm keeps no running statistics.
    """
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError(
            "BatchNorm without running statistics cannot be folded: use track_running_stats=True."
        )
    scale = torch.rsqrt(variance + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def folded_weights(layer: nn.Conv2d | nn.Linear, norm: Norm | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer with the BatchNorm behind it."""
    weight = layer.weight
    bias = weight.new_zeros(weight.shape[0]) if layer.bias is None else layer.bias
    if norm is None:
        return weight, bias
    scale, shift = scale_and_shift(norm)
    return weight * scale.view(-1, *(1,) * (weight.ndim - 1)), bias * scale + shift


class _Folded(nn.Module):
    """A weight and a bias, and that weight in oneDNN's order where it is used."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, *, relu: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias.clone())
        self.relu = relu
        self._packed: Tensor | None = None

    def derive(self, *, pack: bool) -> None:
        """Order the weight for oneDNN, or drop that copy; to be called again whenever the weight changes."""
        usable = pack and self.weight.device.type == "cpu" and self.weight.dtype == torch.float32
        self._packed = self._order() if usable and _HAS_ONEDNN else None

    def __getstate__(self) -> dict[str, Any]:
        """Without the copy in oneDNN's order, which can be neither copied nor pickled."""
        return self.__dict__ | {"_packed": None}

    def _order(self) -> Tensor:
        raise NotImplementedError


class FoldedConv(_Folded):
    """Convolution, then the sum with a shortcut if there is one, then ReLU if wanted.

    Args:
        conv: gives stride, padding and so on, and the weights if there are no others.
        norm: BatchNorm behind it.
        relu: whether a ReLU follows.
        weights: weight and bias to use instead of those of ``conv`` and ``norm``.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: Norm | None = None,
        *,
        relu: bool = False,
        weights: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        weight, bias = folded_weights(conv, norm) if weights is None else weights
        super().__init__(weight.clone(memory_format=torch.channels_last), bias, relu=relu)
        self._geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)

    def _order(self) -> Tensor:
        return torch.ops.mkldnn._reorder_convolution_weight(self.weight, *self._geometry)

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if self._packed is None:
            padding, stride, dilation, groups = self._geometry
            out = F.conv2d(x, self.weight, self.bias, stride, padding, dilation, groups)
            if shortcut is not None:
                out.add_(shortcut)
        elif shortcut is None:
            out = _convolve(x, self._packed, self.bias, *self._geometry, "none", [], "")
        else:
            inputs = (self._packed, self.bias, *self._geometry)
            out = _convolve.binary(x, shortcut, *inputs, "add", 1.0, None, [], None)
        return out.relu_() if self.relu else out


class FoldedLinear(_Folded):
    """Linear layer, then ReLU if wanted."""

    def __init__(self, weight: Tensor, bias: Tensor, *, relu: bool = False) -> None:
        super().__init__(weight.clone(), bias, relu=relu)

    def _order(self) -> Tensor:
        return torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self._packed is None:
            out = F.linear(x, self.weight, self.bias)
        else:
            out = _multiply(x, self._packed, self.bias, "none", [], "")
        return out.relu_() if self.relu else out
