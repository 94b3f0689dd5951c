"""Exploration noise for the root of a search, drawn from an explicit generator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class RootNoise(NamedTuple):
    """Random numbers of a search for each of its roots: the same root with the same numbers is searched the same way,
    whoever else is searched beside it, as far as the model gives it the same numbers."""

    root: Tensor  # [B, A]
    tie_seeds: Tensor  # [B] int64

    def take(self, rows: slice | Tensor) -> RootNoise:
        """Those of some roots."""
        return RootNoise(self.root[rows], self.tie_seeds[rows])


def dirichlet_noise(action_mask: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """Symmetric Dirichlet draws over the legal actions of each row, ``[B, A]`` float32, 0 for illegal
    actions.

    Args:
        action_mask: ``[B, A]`` bool, True = legal.
        alpha: concentration, above 0; 0.3 for Atari in MuZero.
        generator: source of randomness; draws are made on its device.
    """
    concentration = torch.full(action_mask.shape, alpha, dtype=torch.float64, device=generator.device)
    # torch.distributions takes no generator, so this calls the sampler that it is built on.
    gamma = torch._standard_gamma(concentration, generator=generator).to(action_mask.device)
    gamma = gamma.masked_fill(~action_mask, 0)
    return (gamma / gamma.sum(dim=-1, keepdim=True)).float()


def gumbel_noise(action_mask: Tensor, generator: torch.Generator) -> Tensor:
    """Standard Gumbel draws ``[B, A]`` float32: minus the logarithm of exponential draws.

    Args:
        action_mask: ``[B, A]``, for its shape and device.
        generator: source of randomness; draws are made on its device.
    """
    draws = torch.empty(action_mask.shape, device=generator.device).exponential_(generator=generator)
    return draws.clamp_(min=torch.finfo(draws.dtype).tiny).log_().neg_().to(action_mask.device)
