"""Networks whose latent is a vector, for one or two CPU cores: three times cheaper, and they fit sooner.

After the few thousand small batches that a laptop can afford, EfficientZero's networks still predict nearly flat values
and rewards; these do not (``results/laptop/README.md``). They have LayerNorm (Ba et al., arXiv 1607.06450) in place of
BatchNorm, as TD-MPC2's (arXiv 2310.16828), and so are the same in training and in inference. Latents are ``[B, D, 1,
1]``, which is how everything that handles maps handles them, too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_KERNELS = ((8, 4), (4, 2), (3, 1))  # size and stride of the convolutions of DQN (Mnih et al. 2015)


class VectorRepresentation(nn.Module):
    """The convolutions of DQN (Mnih et al. 2015) without padding, a linear layer, LayerNorm.

    Pixels are centred and scaled by ``gain``: with the weights of an orthogonal initialisation what moves then
    differs as much as it can. In frames without their background (``env.subtract_background=true``) 1/2 is the
    background.

    Args:
        in_channels: stacked frames times colours.
        size: side of the frames; at least 36.
        channels: width of the second and third convolution; the first has half of it.
        latent: D.
        gain: factor on pixels in [-1/2, 1/2].

    Raises:
        ValueError: if the frames are too small or ``channels`` is odd.
    """

    def __init__(
        self, in_channels: int, size: int, *, channels: int = 32, latent: int = 256, gain: float = 20.0
    ) -> None:
        super().__init__()
        if size < 36 or channels % 2:
            raise ValueError(
                f"image_size={size}, channels={channels}: a vector latent needs frames of at least 36 pixels and an"
                " even number of channels"
            )
        self.gain = gain
        side, width, layers = size, in_channels, list[nn.Conv2d]()
        for (kernel, stride), out in zip(_KERNELS, (channels // 2, channels, channels), strict=True):
            layers.append(nn.Conv2d(width, out, kernel, stride=stride))
            side, width = (side - kernel) // stride + 1, out
        self.first, self.second, self.third = layers
        self.linear = nn.Linear(width * side * side, latent)
        self.norm = nn.LayerNorm(latent)
        weighted: list[nn.Conv2d | nn.Linear] = [*layers, self.linear]
        for layer in weighted:
            nn.init.orthogonal_(layer.weight, 2**0.5)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, observation: Tensor) -> Tensor:
        """``[B, F*C, H, W]`` uint8 (scaled by 1/255 here) or float in [0, 1] to ``[B, D, 1, 1]``."""
        first = self.first
        # gain (x - 1/2) is done by the first convolution, which saves two passes over all frames.
        scale = self.gain / 255 if observation.dtype == torch.uint8 else self.gain
        bias = first.bias - self.gain / 2 * first.weight.sum((1, 2, 3))  # type: ignore[operator]
        frames = observation.contiguous(memory_format=torch.channels_last).to(first.weight.dtype)
        out = F.relu_(F.conv2d(frames, first.weight * scale, bias, stride=_KERNELS[0][1]))
        out = F.relu_(self.third(F.relu_(self.second(out))))
        return self.norm(self.linear(out.flatten(1)))[:, :, None, None]


class VectorDynamics(nn.Module):
    """Next latent: the latent plus a two-layer network of latent and action, then LayerNorm.

    Args:
        latent: D.
        num_actions: A; each action has a learnt vector, added before the first LayerNorm.
        hidden: width of the hidden layer.
    """

    def __init__(self, latent: int = 256, *, num_actions: int = 18, hidden: int = 512) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.linear = nn.Linear(latent, hidden)
        self.embedding = nn.Embedding(num_actions, hidden)
        self.hidden_norm = nn.LayerNorm(hidden)
        self.out = nn.Linear(hidden, latent)
        self.norm = nn.LayerNorm(latent)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """``latent [B, D, 1, 1]``, ``action [B]`` int64 to the next latent ``[B, D, 1, 1]``."""
        flat = latent.flatten(1)
        hidden = F.relu_(self.hidden_norm(self.linear(flat) + self.embedding(action)))
        return self.norm(flat + self.out(hidden))[:, :, None, None]


def _head(latent: int, hidden: int, out_features: int) -> nn.Sequential:
    """Linear, LayerNorm, ReLU, Linear. The last layer starts at zero: uniform policy, value and reward 0."""
    last = nn.Linear(hidden, out_features)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    first = nn.Linear(latent, hidden)
    return nn.Sequential(nn.Flatten(), first, nn.LayerNorm(hidden), nn.ReLU(inplace=True), last)


class VectorRewardHead(nn.Module):
    """Reward of each transition on its own.

    Args:
        latent: D.
        num_bins: S.
        hidden: width of the hidden layer.
    """

    def __init__(self, latent: int, num_bins: int, *, hidden: int = 128) -> None:
        super().__init__()
        self.out = _head(latent, hidden, num_bins)

    def initial_state(self, latent: Tensor) -> None:
        """None, whatever the latent ``[B, ...]``: rewards are predicted one by one."""

    def forward(self, latent: Tensor, state: None) -> tuple[Tensor, None]:
        """Logits ``[B, S]`` of the reward of the transition into ``latent``."""
        return self.out(latent), None


class VectorPrediction(nn.Module):
    """Policy and value heads with zero-initialised last layers.

    Args:
        latent: D.
        num_actions: A.
        num_bins: S.
        hidden: width of each head's hidden layer.
    """

    def __init__(self, latent: int, *, num_actions: int = 18, num_bins: int = 601, hidden: int = 128) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.policy = _head(latent, hidden, num_actions)
        self.value = _head(latent, hidden, num_bins)

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """``latent [B, D, 1, 1]`` to policy logits ``[B, A]`` and value logits ``[B, S]``."""
        return self.policy(latent), self.value(latent)
