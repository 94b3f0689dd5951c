"""Projection and predictor of the self-supervised consistency loss."""

from __future__ import annotations

from torch import Tensor, nn


class Projection(nn.Module):
    """SimSiam heads (arXiv 2011.10566) as in EfficientZero section 4.1.

    Args:
        in_features: flattened latent, ``C h w``.
        hidden: width of the three-layer projector.
        out: its outputs, and those of the predictor.
        predictor_hidden: bottleneck of the two-layer predictor.
    """

    def __init__(
        self, in_features: int, *, hidden: int = 1024, out: int = 1024, predictor_hidden: int = 512
    ) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            nn.Flatten(),
            nn.Linear(in_features, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, out),
            nn.BatchNorm1d(out),
        )
        self.predictor = nn.Sequential(
            nn.Linear(out, predictor_hidden),
            nn.BatchNorm1d(predictor_hidden),
            nn.ReLU(inplace=True),
            nn.Linear(predictor_hidden, out),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """``[B, C, h, w]`` to the projection ``[B, out]``, the target side of the loss."""
        return self.projector(latent)

    def predict(self, latent: Tensor) -> Tensor:
        """``[B, C, h, w]`` to the predictor's ``[B, out]``, the side that learns."""
        return self.predictor(self.projector(latent))
