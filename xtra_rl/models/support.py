"""Scalars as categorical distributions: the value transform h(x) and two-hot coding on an integer support."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 0.001


def value_transform(x: Tensor, epsilon: float = EPSILON) -> Tensor:
    r"""Compress scalars ``[...]``: ``h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x``.

    Pohlen et al. (arXiv 1805.11593), as used by MuZero (arXiv 1911.08265, appendix F). Differs from the official XTRA
    code, which puts the linear term inside the sign and is therefore wrong for negative ``x``.

    Example:
        >>> value_transform(torch.tensor([3.0, -3.0]))
        tensor([ 1.0030, -1.0030])
    """
    return torch.sign(x) * (torch.sqrt(x.abs() + 1) - 1) + epsilon * x


def inverse_value_transform(y: Tensor, epsilon: float = EPSILON) -> Tensor:
    """Invert :func:`value_transform`.

    The root is written as ``2 u / (sqrt(1 + 4 epsilon u) + 1)`` with ``u = |y| + 1 + epsilon``; the textbook form
    subtracts two nearly equal numbers and loses four digits in float32.

    Example:
        >>> inverse_value_transform(torch.tensor([1.003, 0.0]))
        tensor([3., 0.])
    """
    u = y.abs() + 1 + epsilon
    root = 2 * u / (torch.sqrt(1 + 4 * epsilon * u) + 1)
    return torch.sign(y) * (root.square() - 1)


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, where a loss of half precision belongs, or as it is in float64.

    Example:
        >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
        >>> at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype
        torch.float64
    """
    return x if x.dtype == torch.float64 else x.float()


class Support:
    """Integer atoms ``-size .. size`` on the transformed scale h(x).

    The support is symmetric on purpose: zero-initialised heads then decode to 0 (up to rounding, 1e-5 for 601 bins),
    where an asymmetric one would start bootstrapping from a made-up constant.

    Args:
        size: largest atom; EfficientZero uses 300, hence 601 bins.

    Raises:
        ValueError: if ``size`` is not a positive integer.
    """

    def __init__(self, size: int = 300) -> None:
        if size < 1:
            raise ValueError(f"support size is {size}; expected a positive integer such as 300")
        self.size = int(size)

    @property
    def num_bins(self) -> int:
        """Number of atoms, ``2 size + 1``."""
        return 2 * self.size + 1

    def _position(self, scalar: Tensor) -> tuple[Tensor, Tensor]:
        """Lower atom's index and the weight of the atom above it."""
        scaled = value_transform(scalar.float()).clamp(-self.size, self.size) + self.size
        low = scaled.floor().clamp(max=self.num_bins - 2)
        # NaN has no integer: clamping the index keeps it in range, and the weight carries the NaN into the loss.
        return low.long().clamp(0, self.num_bins - 2), scaled - low

    def encode(self, scalar: Tensor) -> Tensor:
        """Two-hot distribution of a scalar: ``[...] -> [..., S]``; values outside the support sit on its last atom.

        Example:
            >>> Support(2).encode(torch.tensor(3.0))
            tensor([0.0000, 0.0000, 0.0000, 0.9970, 0.0030])
        """
        low, weight = self._position(scalar)
        target = torch.zeros(*scalar.shape, self.num_bins, device=scalar.device)
        target.scatter_(-1, low.unsqueeze(-1), (1 - weight).unsqueeze(-1))
        return target.scatter_(-1, (low + 1).unsqueeze(-1), weight.unsqueeze(-1))

    def decode(self, logits: Tensor) -> Tensor:
        """Scalar of a categorical distribution: ``[..., S] -> [...]``, the softmax expectation mapped back by h^-1."""
        probs = at_least_float32(logits).softmax(-1)
        atoms = torch.arange(-self.size, self.size + 1, device=probs.device, dtype=probs.dtype)
        with torch.autocast(probs.device.type, enabled=False):  # which rounds products to half precision
            return inverse_value_transform(probs @ atoms)

    def cross_entropy(self, logits: Tensor, scalar: Tensor) -> Tensor:
        """Cross-entropy of ``logits [..., S]`` against the two-hot of ``scalar [...]``, shape ``[...]``.

        Gathers the two atoms that carry mass instead of building the 601-wide target.
        """
        low, weight = self._position(scalar)
        log_probs = at_least_float32(logits).log_softmax(-1)
        pair = log_probs.gather(-1, torch.stack([low, low + 1], -1))
        return -((1 - weight) * pair[..., 0] + weight * pair[..., 1])
