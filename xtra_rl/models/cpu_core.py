"""Recurrent inference on the CPU as one compiled call, without PyTorch's cost per operation."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from xtra_rl.cpu_threads import numba_threads
from xtra_rl.models.folded_layers import FoldedConv, FoldedLinear
from xtra_rl.models.folding import (
    FoldedDynamics,
    FoldedPrediction,
    FoldedResidual,
    FoldedRewardHead,
    FoldedValuePrefixHead,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xtra_rl.models.cpu_kernels import Layer, Weights

#: Rows of one compiled call: weights are read once for them, and what lies between the layers still fits the L2 cache.
BLOCK = 32

_PARTS = ("transition", "reward_head", "prediction")
_GEOMETRY = ((1, 1), (1, 1), (1, 1), 1)  # padding, stride, dilation, groups
State = tuple[Tensor, Tensor] | None


@functools.cache
def _kernels() -> ModuleType:
    """Imported when the first batch comes, since Numba is slow to import."""
    from xtra_rl.models import cpu_kernels

    return cpu_kernels


class CpuCore:
    """The recurrent inference of an engine in one compiled call for each thread (``torch.set_num_threads``).

    It computes what the engine computes through PyTorch, up to rounding, and each row of a batch as if alone: results
    depend neither on the batch nor on the number of threads. With EfficientZero's networks PyTorch dispatches 55
    operations, which take longer than their arithmetic in small batches and small networks; in large ones Winograd's
    convolution takes less arithmetic.

    The first call imports Numba and compiles for 25 seconds, once for each machine: the result is cached on disk, in
    ``__pycache__`` or ``NUMBA_CACHE_DIR``. It also copies the weights in the order of the kernels, 20 ms for those of
    EfficientZero, so make another one with :meth:`build` when they change. Several threads may call it at once, but
    not where Numba falls back to its ``workqueue`` layer; processes must be spawned, not forked, after the first call.
    """

    def __init__(self, parts: nn.ModuleDict, bins: int) -> None:
        self._transition: FoldedDynamics = parts["transition"]  # type: ignore[assignment]
        self._reward_head: FoldedValuePrefixHead | FoldedRewardHead = parts["reward_head"]  # type: ignore[assignment]
        self._prediction: FoldedPrediction = parts["prediction"]  # type: ignore[assignment]
        self._bins = bins
        self._units = getattr(self._reward_head, "lstm_hidden", 0)
        self._channels = len(self._transition.conv.bias)
        squeeze = self._prediction.squeeze.weight
        self._area = self._prediction.hidden.weight.shape[1] // len(squeeze)
        self._weights: tuple[tuple[int, int], Weights] | None = None  # for latents of a height and width

    @staticmethod
    def build(parts: nn.ModuleDict, bins: int) -> CpuCore | None:
        """From the folded parts of an engine; None if it cannot compute what one of them computes."""
        tensors = [tensor for name in _PARTS for tensor in parts[name].buffers()]
        plain = all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in tensors)
        return CpuCore(parts, bins) if plain and _is_known(parts, bins) else None

    def suits(self, action: Tensor, latent: Tensor) -> bool:
        """Whether it can compute a batch."""
        return (
            len(action) > 0 and latent.dtype is torch.float32 and latent.is_cpu and not latent.requires_grad
        )

    def __call__(
        self, action: Tensor, latent: Tensor, state: State
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, State]:
        """``action [B]``, ``latent [B, C, h, w]`` to reward, value, policy logits, next latent and state.

        Raises:
            ValueError: if shapes do not fit the networks.
            IndexError: if an action is none of theirs.
        """
        kernels = _kernels()
        actions = np.ascontiguousarray(action.numpy(), np.int64)
        pixels = np.ascontiguousarray(latent.numpy().transpose(0, 2, 3, 1), np.float32)
        batch, h, w, channels = pixels.shape
        memory = (batch, self._units)
        if state is None:
            hidden = cell = np.empty((batch, 0), np.float32)
        else:
            hidden, cell = (np.ascontiguousarray(entry.numpy(), np.float32) for entry in state)
        # The kernels would read what lies behind arrays that are too small.
        fits = channels == self._channels and h * w == self._area and actions.shape == (batch,)
        if not fits or hidden.shape != memory or cell.shape != memory:
            raise ValueError(
                f"shapes of action, latent and state are {actions.shape}, {tuple(latent.shape)} and "
                f"{hidden.shape}; expected [B], [B, {self._channels}, h, w] with h w = {self._area} and "
                f"[B, {self._units}]"
            )
        outputs = kernels.Outputs(
            reward=np.empty(batch, np.float32),
            value=np.empty(batch, np.float32),
            policy_logits=np.empty((batch, self._prediction.num_actions), np.float32),
            latent=np.empty(pixels.shape, np.float32),
            hidden=np.empty(memory, np.float32),
            cell=np.empty(memory, np.float32),
        )
        if not self._run(self._weights_for(h, w), (actions, pixels, hidden, cell), outputs):
            count = len(self._transition.actions)
            raise IndexError(f"actions are {actions.tolist()}; expected 0 to {count - 1}")
        as_tensor = torch.from_numpy
        return (
            as_tensor(outputs.reward),
            as_tensor(outputs.value),
            as_tensor(outputs.policy_logits),
            as_tensor(outputs.latent.transpose(0, 3, 1, 2)),
            None if state is None else (as_tensor(outputs.hidden), as_tensor(outputs.cell)),
        )

    @staticmethod
    def _run(weights: Weights, inputs: tuple[Any, ...], outputs: Any) -> bool:
        """Fill the outputs, block by block; whether all actions were in range."""
        batch = len(inputs[0])
        tasks = numba_threads(max(2, batch))
        blocks = 1 if batch == 1 else tasks * -(-batch // (BLOCK * tasks))
        return _kernels().recurrent(weights, *inputs, outputs, blocks, tasks)

    def _weights_for(self, h: int, w: int) -> Weights:
        if self._weights is None or self._weights[0] != (h, w):
            self._weights = ((h, w), self._read(h, w))
        return self._weights[1]

    @torch.no_grad()
    def _read(self, h: int, w: int) -> Weights:
        """All weights in the order of the kernels."""
        kernels = _kernels()
        transition, head, prediction = self._transition, self._reward_head, self._prediction
        dynamics_convs, prediction_convs = _convs_of(transition.blocks), _convs_of(prediction.blocks)
        convs = [transition.conv, *dynamics_convs, *prediction_convs]
        layers, area = [kernels.Layer(np.empty(0, np.float32), np.empty(0, np.float32))] * 7, self._area
        norm = np.empty((2, 0), np.float32)
        reward_hidden, reduced = head.hidden.weight, len(head.squeeze.weight)
        if isinstance(head, FoldedValuePrefixHead):
            layers[kernels.GATES] = _layer(head.gates, _grouped(head.gates.weight, reduced, area))
            norm = torch.stack([head.scale, head.shift]).numpy()
        else:
            reward_hidden = _grouped(reward_hidden, reduced, area)
        hidden = _grouped(prediction.hidden.weight, len(prediction.squeeze.weight), area)
        layers[kernels.REWARD_SQUEEZE] = _layer(head.squeeze)
        layers[kernels.REWARD_HIDDEN] = _layer(head.hidden, reward_hidden)
        layers[kernels.REWARD_OUT] = _layer(head.out, _padded(head.out.weight))
        layers[kernels.SQUEEZE] = _layer(prediction.squeeze)
        layers[kernels.HIDDEN] = _layer(prediction.hidden, hidden)
        layers[kernels.OUT] = _layer(prediction.out, _padded(prediction.out.weight))
        flat = [array for layer in layers for array in layer]
        edges = np.cumsum([0, *(array.size for array in flat)])
        return kernels.Weights(
            channels=self._channels,
            action_shift=self._action_shift(h, w),
            convs=np.stack([_winograd_weights(conv.weight) for conv in convs]),
            conv_biases=np.stack([_padded(conv.bias).numpy() for conv in convs]),
            dynamics_blocks=len(dynamics_convs) // 2,
            layers=np.concatenate(flat),
            places=np.stack([edges[:-1:2], edges[1::2], edges[2::2]], 1),
            norm=norm,
            bins=self._bins,
        )

    def _action_shift(self, h: int, w: int) -> NDArray[np.float32]:
        """``[A, h, w, C]``: what each action adds to the first convolution, with its bias."""
        transition = self._transition
        if transition.actions.ndim == 2:
            shift = transition.actions[:, None, None, :].expand(-1, h, w, -1)
        else:
            plane = transition._plane_map(torch.empty(1, 1, h, w)).permute(0, 2, 3, 1)
            shift = transition.actions[:, None, None, None] * plane
        return _padded(shift + transition.conv.bias).contiguous().numpy()


def _is_known(parts: nn.ModuleDict, bins: int) -> bool:
    """Whether every part is of a type and of a shape that the kernels know."""
    transition, head, prediction = (cast("Any", parts[name]) for name in _PARTS)
    if type(transition) is not FoldedDynamics or type(prediction) is not FoldedPrediction:
        return False
    stacks = (transition.blocks, prediction.blocks)
    if type(head) not in (FoldedValuePrefixHead, FoldedRewardHead) or not all(map(_is_plain, stacks)):
        return False
    channels = len(transition.conv.bias)
    convs = [transition.conv, *_convs_of(transition.blocks), *_convs_of(prediction.blocks)]
    same = all(
        conv._geometry == _GEOMETRY and conv.weight.shape == (channels, channels, 3, 3) for conv in convs
    )
    reduced, squeezed = head.squeeze.weight.shape[0], prediction.squeeze.weight.shape[0]
    area = prediction.hidden.weight.shape[1] // squeezed
    is_prefix = type(head) is FoldedValuePrefixHead
    first = head.gates if is_prefix else head.hidden
    features = first.weight.shape[1] - (head.lstm_hidden if is_prefix else 0)
    outputs = (len(head.out.bias), len(prediction.out.bias) - prediction.num_actions)
    return same and channels % 8 == 0 and features == reduced * area and outputs == (bins, bins)


def _is_plain(blocks: nn.Module) -> bool:
    """Whether it is a sequence of residual blocks that keep their shape."""
    return type(blocks) is nn.Sequential and all(
        type(block) is FoldedResidual and type(block.shortcut) is nn.Identity for block in blocks
    )


def _convs_of(blocks: Any) -> list[FoldedConv]:
    return [conv for block in blocks for conv in (block.conv1, block.conv2)]


def _padded(weight: Tensor) -> Tensor:
    """With zeros at the end of the last dimension."""
    from xtra_rl.models.cpu_tile import padded

    width = weight.shape[-1]
    return nn.functional.pad(weight, (0, padded(width) - width))


def _grouped(weight: Tensor, width: int, count: int) -> Tensor:
    """Pad the first ``count`` groups of ``width`` inputs each, and leave the inputs behind them."""
    groups = _padded(weight[:, : width * count].unflatten(1, (count, width)))
    return torch.cat([groups.flatten(1), weight[:, width * count :]], 1)


def _in_tiles(weight: Tensor) -> NDArray[np.float32]:
    """``[outputs, inputs]`` in the order in which the kernels read it."""
    from xtra_rl.models.cpu_tile import tiles

    columns = _padded(weight.t())
    parts = [columns[:, first:last].reshape(-1) for first, last in tiles(columns.shape[1])]
    return torch.cat(parts).numpy()


def _winograd_weights(weight: Tensor) -> NDArray[np.float32]:
    """``[C, C, 3, 3]`` to a matrix for each of the 16 values of a transformed patch."""
    halves = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]]
    lift = torch.tensor(halves, dtype=torch.float64)
    lifted = torch.einsum("ya,xb,oiab->yxoi", lift, lift, weight.double()).flatten(0, 1).float()
    return np.stack([_in_tiles(matrix) for matrix in lifted])


def _layer(layer: FoldedLinear, weight: Tensor | None = None) -> Layer:
    return _kernels().Layer(
        _in_tiles(layer.weight if weight is None else weight), _padded(layer.bias).numpy()
    )
