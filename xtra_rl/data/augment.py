"""Image augmentation, one draw for each sample: EfficientZero's shift and intensity, CURL's crops."""

from __future__ import annotations

import torch
from torch import Tensor

from xtra_rl.data.shard import BatchShard


@torch.no_grad()
def random_shift(
    frames: Tensor,
    *,
    pad: int = 4,
    generator: torch.Generator | None = None,
    shard: BatchShard | None = None,
) -> Tensor:
    """Shift every sample by up to ``pad`` pixels in both directions, repeating the border.

    Equal to padding by replication and cropping at random (DrQ, arXiv 2004.13649); each of the ``(2 pad +
    1)^2`` shifts is equally likely. All frames and channels of a sample move together.

    Args:
        frames: ``[B, ..., H, W]``, any dtype; shift uint8 frames before the conversion to float, it moves a
            quarter of the bytes.
        pad: largest shift in pixels, at least 0.
        generator: source of the draws; None takes torch's global one.
        shard: of the whole batch whose part ``frames`` is.

    Returns:
        A new tensor like ``frames``.

    Raises:
        ValueError: if ``pad`` is negative or ``frames`` has fewer than three dimensions.

    Example:
        A draw that shifts to the left by one pixel, where the right border is repeated:

        >>> frames = torch.tensor([[[[0, 0, 9]]]], dtype=torch.uint8)
        >>> random_shift(frames, pad=1, generator=torch.Generator().manual_seed(1)).flatten().tolist()
        [0, 9, 9]
    """
    if pad < 0 or frames.ndim < 3:
        raise ValueError(f"pad={pad} must be at least 0 and frames {tuple(frames.shape)} be [B, ..., H, W]")
    samples, height, width = frames.shape[0], *frames.shape[-2:]
    if pad == 0 or frames.numel() == 0:
        return frames.clone()
    of_all = _draw((2, samples if shard is None else shard.batch_size), 2 * pad + 1, frames, generator)
    down, right = of_all if shard is None else of_all[:, shard.places.to(of_all.device)]

    row = (torch.arange(height, device=frames.device) + down[:, None] - pad).clamp_(0, height - 1)
    return _cut(_widen(frames, pad), row, right, width)


@torch.no_grad()
def crop_and_shift(frames: Tensor, *, pad: int = 4, generator: torch.Generator | None = None) -> Tensor:
    """A view of every sample for CURL's contrast: cut ``pad`` pixels off, repeat the border, cut back to size.

    The released code's crop to 80 of 84 pixels, replication of 4 at every side and crop to 84 (arXiv 2004.04136), both
    crops at random. All frames and channels of a sample move together.

    Args:
        frames: ``[B, ..., H, W]``, any dtype; uint8 moves a quarter of the bytes.
        pad: pixels, at least 0 and less than H and W.
        generator: source of the draws; None takes torch's global one.

    Returns:
        A new tensor like ``frames``.

    Raises:
        ValueError: if ``pad`` is out of range or ``frames`` has fewer than three dimensions.

    Example:
        Two views of the same frames, as CURL compares them:

        >>> frames, generator = torch.randint(256, (2, 4, 84, 84), dtype=torch.uint8), torch.Generator()
        >>> query, key = crop_and_shift(frames, generator=generator), crop_and_shift(frames, generator=generator)
        >>> query.shape, torch.equal(query, key)
        (torch.Size([2, 4, 84, 84]), False)
    """
    if frames.ndim < 3 or not 0 <= pad < min(frames.shape[-2:]):
        raise ValueError(
            f"pad={pad} must be at least 0 and smaller than the sides of frames {tuple(frames.shape)}, [B, ..., H, W]"
        )
    samples, height, width = frames.shape[0], *frames.shape[-2:]
    top, left, down, right = _draw((4, samples), pad + 1, frames, generator)
    whole = torch.arange(height, device=frames.device).expand(samples, -1)
    narrow = _cut(frames, whole, left, width - pad)
    row = (whole + down[:, None] - pad).clamp(0, height - pad - 1) + top[:, None]
    return _cut(_widen(narrow, pad), row, right, width)


def _widen(frames: Tensor, pad: int) -> Tensor:
    """Repeat the left and right border ``pad`` times."""
    edge_shape = (*frames.shape[:-1], pad)
    return torch.cat([frames[..., :1].expand(edge_shape), frames, frames[..., -1:].expand(edge_shape)], -1)


def _cut(frames: Tensor, row: Tensor, column: Tensor, width: int) -> Tensor:
    """Rows ``row [B, R]`` of all images of ``frames [B, ..., H, W]``, ``width`` pixels from ``column [B]`` on."""
    samples, height, full = frames.shape[0], *frames.shape[-2:]
    images = frames[0].numel() // (height * full)
    image = torch.arange(samples * images, device=frames.device).view(samples, images, 1)
    start = (image * height + row[:, None]) * full + column[:, None, None]
    # Each output row is a run of `width` numbers somewhere in memory: an overlapping view in which entry i starts at
    # number i lets one index_select copy whole rows.
    flat = frames.reshape(-1)
    runs = flat.as_strided((flat.numel() - width + 1, width), (1, 1))
    return runs.index_select(0, start.flatten()).view(*frames.shape[:-2], row.shape[1], width)


@torch.no_grad()
def random_intensity(
    frames: Tensor,
    *,
    scale: float = 0.05,
    generator: torch.Generator | None = None,
    shard: BatchShard | None = None,
) -> Tensor:
    """Multiply every sample by ``1 + scale * clip(N(0, 1), -2, 2)``.

    Args:
        frames: ``[B, ...]`` uint8, or float in [0, 1].
        scale: standard deviation of the factor before clipping, at least 0.
        generator: source of the draws; None takes torch's global one.
        shard: of the whole batch whose part ``frames`` is.

    Returns:
        float32 (float input keeps its dtype), nominally in [0, 1]; bright pixels may exceed 1, as in
        EfficientZero.

    Raises:
        ValueError: if ``scale`` is negative.

    Example:
        >>> frames = torch.full((1, 4, 96, 96), 255, dtype=torch.uint8)
        >>> bright = random_intensity(frames, scale=0.05, generator=torch.Generator().manual_seed(0))
        >>> bright.dtype, bool((bright == bright[0, 0, 0, 0]).all())
        (torch.float32, True)
    """
    if scale < 0:
        raise ValueError(f"scale={scale} must be at least 0")
    device = frames.device if generator is None else generator.device
    samples = frames.shape[0] if shard is None else shard.batch_size
    noise = torch.randn(samples, generator=generator, device=device).clamp_(-2.0, 2.0)
    if shard is not None:
        noise = noise[shard.places.to(device)]
    factor = (1.0 + scale * noise).to(frames.device)
    if not frames.is_floating_point():
        factor = factor / 255.0
    dtype = frames.dtype if frames.is_floating_point() else torch.float32
    return frames.to(dtype, copy=True).mul_(factor.to(dtype).view(-1, *[1] * (frames.ndim - 1)))


def augment(
    frames: Tensor,
    *,
    pad: int = 4,
    scale: float = 0.05,
    generator: torch.Generator | None = None,
    shard: BatchShard | None = None,
) -> Tensor:
    """Shift, then change the intensity, as EfficientZero does before the networks (arXiv 2111.00210).

    Args:
        frames: ``[B, ..., H, W]`` uint8, or float in [0, 1]; one draw for each of the B samples.
        pad: see :func:`random_shift`.
        scale: see :func:`random_intensity`.
        generator: source of the draws; None takes torch's global one.
        shard: of the whole batch whose part ``frames`` is: draws are made for all of it.

    Returns:
        Float frames of the same shape, nominally in [0, 1].

    Example:
        >>> frames = torch.full((2, 12, 96, 96), 255, dtype=torch.uint8)
        >>> augmented = augment(frames, generator=torch.Generator().manual_seed(0))
        >>> augmented.shape, bool(((augmented >= 0.9) & (augmented <= 1.1)).all())
        (torch.Size([2, 12, 96, 96]), True)
    """
    shifted = random_shift(frames, pad=pad, generator=generator, shard=shard)
    return random_intensity(shifted, scale=scale, generator=generator, shard=shard)


def _draw(shape: tuple[int, ...], high: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    device = like.device if generator is None else generator.device
    return torch.randint(high, shape, generator=generator, device=device).to(like.device)
