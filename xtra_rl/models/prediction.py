"""Prediction network: latent to policy and value."""

from __future__ import annotations

from torch import Tensor, nn

from xtra_rl.models.layers import output_head, residual_stack, squeeze


class Prediction(nn.Module):
    """Shared residual blocks, then a policy and a value head with zero-initialised last layers.

    Args:
        channels: width of the latent, C.
        size: its side, h = w.
        num_actions: A; 18 for Atari, whatever the game (XTRA section 3.1), illegal actions are masked in the search.
        num_bins: S.
        num_blocks: shared residual blocks.
        reduced_channels: width of the 1x1 convolutions before the heads.
        head_hidden: width of the hidden layer of each head.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        *,
        num_actions: int = 18,
        num_bins: int = 601,
        num_blocks: int = 1,
        reduced_channels: int = 16,
        head_hidden: int = 32,
    ) -> None:
        super().__init__()
        self.num_actions = num_actions
        features = reduced_channels * size * size
        self.blocks = residual_stack(channels, num_blocks)
        self.policy = nn.Sequential(
            squeeze(channels, reduced_channels), output_head(features, head_hidden, num_actions)
        )
        self.value = nn.Sequential(
            squeeze(channels, reduced_channels), output_head(features, head_hidden, num_bins)
        )

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """``latent [B, C, h, w]`` to policy logits ``[B, A]`` and value logits ``[B, S]``."""
        shared = self.blocks(latent)
        return self.policy(shared), self.value(shared)
