"""Networks folded for inference: BatchNorm inside the convolutions, fewer and larger operations.

Every class here computes what its source computes in eval mode, up to rounding. Latents are channels-last throughout,
and a flattened latent is in the order of its memory: rows, columns, channels.
"""

from __future__ import annotations

import copy
import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xtra_rl.models.dynamics import Dynamics, RewardHead, ValuePrefixHead
from xtra_rl.models.folded_layers import FoldedConv, FoldedLinear, Norm, folded_weights, scale_and_shift
from xtra_rl.models.layers import ResidualBlock
from xtra_rl.models.prediction import Prediction
from xtra_rl.models.representation import Representation
from xtra_rl.models.vector import VectorDynamics, VectorPrediction, VectorRepresentation, VectorRewardHead

log = logging.getLogger(__name__)


class FoldedResidual(nn.Module):
    """:class:`~xtra_rl.models.layers.ResidualBlock` in two or three convolutions."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.conv1 = FoldedConv(block.conv1, block.norm1, relu=True)
        self.conv2 = FoldedConv(block.conv2, block.norm2, relu=True)
        self.shortcut = fold(block.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x), self.shortcut(x))


class FoldedDynamics(nn.Module):
    """:class:`~xtra_rl.models.dynamics.Dynamics`: the action is one multiply-add on the shortcut of the convolution.

    A constant plane a/A convolved with its kernel is a/A times a map that depends on the borders only.
    """

    actions: Tensor  # [A]: a / A, or [A, C]: embeddings after the norm
    kernel: Tensor  # [C, 1, 3, 3] of the plane

    def __init__(self, source: Dynamics) -> None:
        super().__init__()
        weight, bias = folded_weights(source.conv, source.norm)
        channels = weight.shape[0]
        self.conv = FoldedConv(source.conv, relu=True, weights=(weight[:, :channels], bias))
        self.register_buffer("kernel", weight[:, channels:].clone())
        if source.embedding is None:
            actions = torch.arange(source.num_actions, device=weight.device, dtype=weight.dtype)
            actions = actions / source.num_actions
        else:
            actions = source.embedding.weight * scale_and_shift(source.norm)[0]
        self.register_buffer("actions", actions.clone())
        self.blocks = fold(source.blocks)
        self._map: Tensor | None = None

    def derive(self, *, pack: bool) -> None:
        """Recompute the map of the action plane, in its memory; to be called whenever the weights change."""
        if self._map is not None and self._map.is_inference():
            self._map = None
        if self._map is not None:
            fresh = self._plane_map(self._map)
            if fresh.dtype is self._map.dtype and fresh.device == self._map.device:
                self._map.copy_(fresh)
            else:
                self._map = None

    def _plane_map(self, like: Tensor) -> Tensor:
        ones = self.kernel.new_ones(1, 1, *like.shape[2:])
        return F.conv2d(ones, self.kernel, padding=1).contiguous(memory_format=torch.channels_last)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        code = self.actions.index_select(0, action)
        if code.ndim == 2:
            shortcut = latent + code[:, :, None, None]
        else:
            if self._map is None or self._map.shape[2:] != latent.shape[2:]:
                self._map = self._plane_map(latent)
            shortcut = torch.addcmul(latent, code.view(-1, 1, 1, 1), self._map)
        return self.blocks(self.conv(latent, shortcut))


def _rows_first(weight: Tensor, channels: int) -> Tensor:
    """Columns of a linear layer behind ``Flatten`` in the order of a channels-last latent."""
    return weight.unflatten(1, (channels, -1)).transpose(1, 2).flatten(1)


def _squeeze_weights(squeeze: nn.Sequential) -> tuple[Tensor, Tensor]:
    """1x1 convolution and BatchNorm of :func:`~xtra_rl.models.layers.squeeze` as a linear layer of the channels."""
    weight, bias = folded_weights(squeeze[0], squeeze[1])  # type: ignore[arg-type]
    return weight.flatten(1), bias


def _squeezed(latent: Tensor, layer: FoldedLinear) -> Tensor:
    return layer(latent.permute(0, 2, 3, 1)).flatten(1)


class FoldedPrediction(nn.Module):
    """:class:`~xtra_rl.models.prediction.Prediction`: both heads in each product, as block-diagonal matrices."""

    def __init__(self, source: Prediction) -> None:
        super().__init__()
        self.num_actions = source.num_actions
        self.blocks = fold(source.blocks)
        heads = (source.policy, source.value)
        squeezes = [_squeeze_weights(head[0]) for head in heads]  # type: ignore[arg-type]
        widths = [len(bias) for _, bias in squeezes]
        self.squeeze = FoldedLinear(
            torch.cat([weight for weight, _ in squeezes]),
            torch.cat([bias for _, bias in squeezes]),
            relu=True,
        )
        hidden = [folded_weights(head[1][0], head[1][1]) for head in heads]  # type: ignore[index]
        # Both heads' channels lie side by side in each position.
        parts = [weight.unflatten(1, (width, -1)) for (weight, _), width in zip(hidden, widths, strict=True)]
        wide = parts[0].new_zeros(len(parts[0]) + len(parts[1]), sum(widths), parts[0].shape[2])
        wide[: len(parts[0]), : widths[0]] = parts[0]
        wide[len(parts[0]) :, widths[0] :] = parts[1]
        self.hidden = FoldedLinear(
            _rows_first(wide.flatten(1), sum(widths)), torch.cat([bias for _, bias in hidden]), relu=True
        )
        last = [folded_weights(head[1][3], None) for head in heads]  # type: ignore[index]
        self.out = FoldedLinear(
            torch.block_diag(*(weight for weight, _ in last)), torch.cat([bias for _, bias in last])
        )

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        out = self.out(self.hidden(_squeezed(self.blocks(latent), self.squeeze)))
        return out[:, : self.num_actions], out[:, self.num_actions :]


class FoldedValuePrefixHead(nn.Module):
    """:class:`~xtra_rl.models.dynamics.ValuePrefixHead`: the LSTM in one product and five passes."""

    scale: Tensor
    shift: Tensor

    def __init__(self, source: ValuePrefixHead) -> None:
        super().__init__()
        self.lstm_hidden = source.lstm_hidden
        weight, bias = _squeeze_weights(source.squeeze)
        self.squeeze = FoldedLinear(weight, bias, relu=True)
        cell = source.lstm
        inputs = _rows_first(cell.weight_ih, len(bias))
        gates = torch.cat([inputs, cell.weight_hh], 1)
        bias = cell.bias_ih + cell.bias_hh
        # PyTorch orders the gates input, forget, cell, output: the three sigmoids become neighbours.
        order = [0, 1, 3, 2]
        self.gates = FoldedLinear(_permute_rows(gates, order), _permute_rows(bias, order))
        scale, shift = scale_and_shift(source.norm)
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())
        self.hidden = FoldedLinear(*folded_weights(source.out[0], source.out[1]), relu=True)  # type: ignore[arg-type]
        self.out = FoldedLinear(*folded_weights(source.out[3], None))  # type: ignore[arg-type]

    def initial_state(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Zero LSTM state."""
        zeros = latent.new_zeros(latent.shape[0], self.lstm_hidden)
        return zeros, zeros

    def forward(self, latent: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        hidden, cell = state
        gates = self.gates(torch.cat([_squeezed(latent, self.squeeze), hidden], 1))
        sigmoids, candidate = gates.split([3 * self.lstm_hidden, self.lstm_hidden], 1)
        remember, forget, show = sigmoids.sigmoid_().chunk(3, 1)
        cell = torch.mul(forget, cell).addcmul_(remember, candidate.tanh_())
        hidden = show * torch.tanh(cell)
        normed = torch.addcmul(self.shift, hidden, self.scale).relu_()
        return self.out(self.hidden(normed)), (hidden, cell)


def _permute_rows(rows: Tensor, order: list[int]) -> Tensor:
    return rows.unflatten(0, (len(order), -1))[order].flatten(0, 1)


class FoldedRewardHead(nn.Module):
    """:class:`~xtra_rl.models.dynamics.RewardHead`."""

    def __init__(self, source: RewardHead) -> None:
        super().__init__()
        weight, bias = _squeeze_weights(source.squeeze)
        self.squeeze = FoldedLinear(weight, bias, relu=True)
        hidden, hidden_bias = folded_weights(source.out[0], source.out[1])  # type: ignore[arg-type]
        self.hidden = FoldedLinear(_rows_first(hidden, len(bias)), hidden_bias, relu=True)
        self.out = FoldedLinear(*folded_weights(source.out[3], None))  # type: ignore[arg-type]

    def initial_state(self, latent: Tensor) -> None:
        """There is none."""

    def forward(self, latent: Tensor, state: None) -> tuple[Tensor, None]:
        return self.out(self.hidden(_squeezed(latent, self.squeeze))), None


class FoldedRepresentation(nn.Module):
    """:class:`~xtra_rl.models.representation.Representation`."""

    def __init__(self, source: Representation) -> None:
        super().__init__()
        self.layers = nn.Sequential(fold(source.stem), fold(source.blocks), fold(source.pooled))

    def forward(self, observation: Tensor) -> Tensor:
        return self.layers(observation)


def _fold_sequential(source: nn.Sequential) -> nn.Module:
    """Fuse each convolution with what follows it."""
    layers = list(source)
    folded: list[nn.Module] = []
    while layers:
        layer = layers.pop(0)
        if type(layer) is nn.Conv2d and _is_plain(layer):
            norm = layers.pop(0) if layers and _is_plain_norm(layers[0]) else None
            relu = bool(layers) and type(layers[0]) is nn.ReLU and _is_plain(layers[0])
            if relu:
                layers.pop(0)
            folded.append(FoldedConv(layer, norm, relu=relu))  # type: ignore[arg-type]
        else:
            folded.append(fold(layer))
    return nn.Sequential(*folded)


_FOLDS = {
    nn.Sequential: _fold_sequential,
    nn.Conv2d: FoldedConv,
    ResidualBlock: FoldedResidual,
    Representation: FoldedRepresentation,
    Dynamics: FoldedDynamics,
    ValuePrefixHead: FoldedValuePrefixHead,
    RewardHead: FoldedRewardHead,
    Prediction: FoldedPrediction,
}
_AS_THEY_ARE: tuple[type[nn.Module], ...] = (nn.Identity, nn.ReLU, nn.AvgPool2d, nn.Flatten)
_AS_THEY_ARE += (VectorRepresentation, VectorDynamics, VectorRewardHead, VectorPrediction)  # no BatchNorm
_announced: set[type] = set()


_PLAIN = (
    *_FOLDS,
    *_AS_THEY_ARE,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.Linear,
    nn.LSTMCell,
    nn.Embedding,
)
_SQUEEZE = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Flatten]
_OUT = [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]


def _kind(module: nn.Module) -> type[nn.Module]:
    """Type of a module; a BatchNorm over all ranks is, in eval mode, a BatchNorm."""
    return getattr(module, "evaluates_as", type(module))


def _is_plain(module: nn.Module) -> bool:
    """Whether this module, without those in it, does what its type says, and its type is known here."""
    hooks = module._forward_hooks or module._forward_pre_hooks
    if isinstance(module, nn.Conv2d):
        usual = module.padding_mode == "zeros" and isinstance(module.padding, tuple)
    elif isinstance(module, nn.LSTMCell):
        usual = module.bias
    elif isinstance(module, Norm):
        usual = module.track_running_stats
    else:
        usual = True
    return _kind(module) in _PLAIN and not hooks and bool(usual)


def _is_plain_norm(module: nn.Module) -> bool:
    return _kind(module) is nn.BatchNorm2d and _is_plain(module)


def _can_fold(module: nn.Module) -> bool:
    """Whether a module of a known type consists of what that type is made of, and of nothing else."""
    if isinstance(module, nn.Sequential):
        return _is_plain(module)  # each of its parts is looked at in its turn
    if not all(_is_plain(part) for part in module.modules()):
        return False
    sequences = {
        Prediction: lambda m: [
            (m.policy[0], _SQUEEZE),
            (m.policy[1], _OUT),
            (m.value[0], _SQUEEZE),
            (m.value[1], _OUT),
        ],
        ValuePrefixHead: lambda m: [(m.squeeze, _SQUEEZE), (m.out, _OUT)],
        RewardHead: lambda m: [(m.squeeze, _SQUEEZE), (m.out, _OUT)],
    }
    expected = sequences.get(type(module), lambda m: [])(module)
    norms = [getattr(module, name) for name in ("norm", "norm1", "norm2") if hasattr(module, name)]
    return all([_kind(layer) for layer in layers] == kinds for layers, kinds in expected) and all(
        isinstance(norm, Norm) for norm in norms
    )


def fold(module: nn.Module) -> nn.Module:
    """Folded copy of a module; one that is not exactly as known here is copied as it is, which is logged once."""
    kind = type(module)
    if kind in _FOLDS and _can_fold(module):
        return _FOLDS[kind](module)  # type: ignore[operator]
    if not isinstance(module, _AS_THEY_ARE) and kind not in _announced:
        _announced.add(kind)
        log.info("inference: %s is not folded but runs as it is", kind.__name__)
    return copy.deepcopy(module).eval()
