"""Dynamics network: latent and action to the next latent, and the head for value prefix or reward."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from xtra_rl.models.layers import conv3x3, output_head, residual_stack, squeeze

HeadState = tuple[Tensor, Tensor]


class Dynamics(nn.Module):
    """Next latent: conv of latent and action, plus the latent, ReLU, residual blocks (EfficientZero appendix A.1).

    Args:
        channels: width of the latent.
        num_actions: A; the published encoding is one plane of value ``action / A``.
        num_blocks: residual blocks after the first convolution.
        action_encoding: ``"plane"`` as published, or ``"embedding"``, a learnt vector per action added before the
            first BatchNorm, which separates actions better in small networks.

    Raises:
        ValueError: if ``action_encoding`` is unknown.
    """

    def __init__(
        self,
        channels: int = 64,
        *,
        num_actions: int = 18,
        num_blocks: int = 1,
        action_encoding: Literal["plane", "embedding"] = "plane",
    ) -> None:
        super().__init__()
        if action_encoding not in ("plane", "embedding"):
            raise ValueError(f"action_encoding is {action_encoding!r}; expected 'plane' or 'embedding'")
        self.num_actions = num_actions
        planes = 1 if action_encoding == "plane" else 0
        self.embedding = None if planes else nn.Embedding(num_actions, channels)
        self.conv = conv3x3(channels + planes, channels)
        self.norm = nn.BatchNorm2d(channels)
        self.blocks = residual_stack(channels, num_blocks)

    def forward(self, latent: Tensor, action: Tensor) -> Tensor:
        """``latent [B, C, h, w]``, ``action [B]`` int64 to the next latent ``[B, C, h, w]``."""
        if self.embedding is None:
            plane = (action.to(latent.dtype) / self.num_actions).view(-1, 1, 1, 1)
            out = self.conv(torch.cat([latent, plane.expand(-1, 1, *latent.shape[2:])], 1))
        else:
            out = self.conv(latent) + self.embedding(action)[:, :, None, None]
        return self.blocks(torch.relu(self.norm(out) + latent))


class ValuePrefixHead(nn.Module):
    """Value prefix by an LSTM over the unroll, EfficientZero section 4.2.

    Args:
        channels: width of the latent, C.
        size: its side, h = w.
        num_bins: S.
        lstm_hidden: units of the LSTM.
        reduced_channels: width of the 1x1 convolution.
        head_hidden: width of the last hidden layer.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        num_bins: int,
        *,
        lstm_hidden: int = 512,
        reduced_channels: int = 16,
        head_hidden: int = 32,
    ) -> None:
        super().__init__()
        self.lstm_hidden = lstm_hidden
        self.squeeze = squeeze(channels, reduced_channels)
        self.lstm = nn.LSTMCell(reduced_channels * size * size, lstm_hidden)
        self.norm = nn.BatchNorm1d(lstm_hidden)
        self.out = output_head(lstm_hidden, head_hidden, num_bins)

    def initial_state(self, latent: Tensor) -> HeadState:
        """Zero LSTM state ``([B, L], [B, L])``."""
        zeros = latent.new_zeros(latent.shape[0], self.lstm_hidden)
        return zeros, zeros

    def forward(self, latent: Tensor, state: HeadState) -> tuple[Tensor, HeadState]:
        """Logits ``[B, S]`` of the prefix that ends with the transition into ``latent``, and the new LSTM state."""
        hidden, cell = self.lstm(self.squeeze(latent), state)
        return self.out(torch.relu(self.norm(hidden))), (hidden, cell)


class RewardHead(nn.Module):
    """Reward of each transition on its own, MuZero's choice and the cheap one: no state.

    Args:
        channels: width of the latent, C.
        size: its side, h = w.
        num_bins: S.
        reduced_channels: width of the 1x1 convolution.
        head_hidden: width of the hidden layer.

    Example:
        >>> logits, state = RewardHead(8, 3, 21)(torch.zeros(2, 8, 3, 3), None)
        >>> logits.shape, state
        (torch.Size([2, 21]), None)
    """

    def __init__(
        self, channels: int, size: int, num_bins: int, *, reduced_channels: int = 16, head_hidden: int = 32
    ) -> None:
        super().__init__()
        self.squeeze = squeeze(channels, reduced_channels)
        self.out = output_head(reduced_channels * size * size, head_hidden, num_bins)

    def initial_state(self, latent: Tensor) -> None:
        """None, whatever the latent ``[B, ...]``: rewards are predicted one by one."""

    def forward(self, latent: Tensor, state: None) -> tuple[Tensor, None]:
        """Logits ``[B, S]`` of the reward of the transition into ``latent``."""
        return self.out(self.squeeze(latent)), None
