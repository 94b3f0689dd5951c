"""Building blocks shared by the networks."""

from __future__ import annotations

from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (stride 1) and has no bias, since BatchNorm follows."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class ResidualBlock(nn.Module):
    """conv-BN-ReLU-conv-BN plus identity, then ReLU (EfficientZero, arXiv 2111.00210, appendix A.1).

    With ``stride=2`` or another width the shortcut is a bare strided 3x3 convolution without BatchNorm, as published.
    """

    def __init__(self, in_channels: int, out_channels: int | None = None, stride: int = 1) -> None:
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.norm2 = nn.BatchNorm2d(out_channels)
        changes_shape = stride != 1 or in_channels != out_channels
        self.shortcut = conv3x3(in_channels, out_channels, stride) if changes_shape else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(out)) + self.shortcut(x))


def residual_stack(channels: int, num_blocks: int) -> nn.Sequential:
    """``num_blocks`` residual blocks of one width."""
    return nn.Sequential(*(ResidualBlock(channels) for _ in range(num_blocks)))


def squeeze(channels: int, reduced_channels: int) -> nn.Sequential:
    """1x1 convolution, BatchNorm, ReLU, flatten: from a latent to the input vector of a head."""
    return nn.Sequential(
        nn.Conv2d(channels, reduced_channels, 1),
        nn.BatchNorm2d(reduced_channels),
        nn.ReLU(inplace=True),
        nn.Flatten(),
    )


def output_head(in_features: int, hidden: int, out_features: int) -> nn.Sequential:
    """Linear, BatchNorm, ReLU, Linear. The last layer starts at zero: uniform policy, value and reward 0."""
    last = nn.Linear(hidden, out_features)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(in_features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), last)
