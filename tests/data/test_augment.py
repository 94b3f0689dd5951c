"""Augmentation against a loop over samples."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from xtra_rl.data import augment, crop_and_shift, random_intensity, random_shift


def shift_one(image, down, right, pad):
    """Pad by replication and crop, pixel by pixel."""
    height, width = image.shape[-2:]
    out = torch.empty_like(image)
    for y in range(height):
        for x in range(width):
            source_y = min(max(y + down - pad, 0), height - 1)
            source_x = min(max(x + right - pad, 0), width - 1)
            out[..., y, x] = image[..., source_y, source_x]
    return out


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("shape", [(7, 4, 9, 12), (3, 2, 3, 8, 5), (5, 6, 6)])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_shift_equals_a_slow_loop(dtype, shape, pad):
    frames = torch.randint(0, 256, shape).to(dtype)
    before = frames.clone()
    shifted = random_shift(frames, pad=pad, generator=torch.Generator().manual_seed(3))
    draws = torch.randint(2 * pad + 1, (2, shape[0]), generator=torch.Generator().manual_seed(3)).tolist()
    expected = torch.stack([shift_one(image, *draw, pad) for image, draw in zip(frames, zip(*draws))])
    assert torch.equal(shifted, expected)
    assert torch.equal(frames, before)


def test_shift_accepts_non_contiguous_frames():
    frames = torch.randint(0, 256, (4, 6, 6, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    one, two = (
        random_shift(x, generator=torch.Generator().manual_seed(1)) for x in (frames, frames.contiguous())
    )
    assert torch.equal(one, two)


def test_shifts_are_uniform_over_all_offsets():
    # The frame holds its own coordinates, so the centre pixel of the result tells the shift.
    pad, size = 4, 17
    ramp = torch.arange(size)
    frames = torch.stack([ramp[:, None].expand(size, size), ramp.expand(size, size)]).to(torch.uint8)
    shifted = random_shift(frames.expand(20_000, -1, -1, -1), generator=torch.Generator().manual_seed(0))
    offset = shifted[:, :, 8, 8].long() - 8 + pad
    counts = torch.bincount(offset[:, 0] * 9 + offset[:, 1], minlength=81)
    assert counts.numel() == 81
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_intensity_is_one_clipped_normal_factor_for_each_sample():
    frames = torch.full((20_000, 2, 2), 255, dtype=torch.uint8)
    bright = random_intensity(frames, generator=torch.Generator().manual_seed(0))
    assert bright.dtype == torch.float32
    assert torch.equal(bright, bright[:, :1, :1].expand_as(bright))
    factor = bright[:, 0, 0].double()
    # 1 + 0.05 * [-2, 2]; a normal is beyond 2 with probability 0.0455.
    assert factor.min() == pytest.approx(0.9, abs=1e-6)
    assert factor.max() == pytest.approx(1.1, abs=1e-6)
    clipped = ((factor - 1).abs() > 0.0999999).double().mean()
    assert clipped == pytest.approx(0.0455, abs=0.006)
    inside = ((factor - 1) / 0.05)[(factor - 1).abs() < 0.0999]
    assert stats.kstest(inside.numpy(), stats.truncnorm(-1.998, 1.998).cdf).pvalue > 1e-3


def test_uint8_and_unit_float_frames_agree():
    frames = torch.randint(0, 256, (5, 4, 8, 8), dtype=torch.uint8)
    from_bytes, from_floats = (
        augment(x, generator=torch.Generator().manual_seed(2)) for x in (frames, frames.float() / 255)
    )
    torch.testing.assert_close(from_bytes, from_floats)
    assert augment(frames.double() / 255).dtype == torch.float64


def test_no_augmentation_is_plain_scaling():
    frames = torch.randint(0, 256, (5, 4, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(augment(frames, pad=0, scale=0.0), frames.float() / 255)


def test_draws_come_from_the_generator():
    frames = torch.randint(0, 256, (5, 4, 8, 8), dtype=torch.uint8)
    results = [augment(frames, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="pad=-1"):
        random_shift(torch.zeros(2, 3, 3), pad=-1)
    with pytest.raises(ValueError, match="scale=-1"):
        random_intensity(torch.zeros(2, 3, 3), scale=-1)


def slow_view(frame, pad, top, left, down, right):
    """Crop, replicate, crop, as the released code writes it."""
    height, width = frame.shape[-2:]
    cut = frame[..., top : top + height - pad, left : left + width - pad]
    wide = torch.nn.functional.pad(cut[None].float(), (pad,) * 4, mode="replicate")[0]
    return wide[..., down : down + height, right : right + width]


@pytest.mark.parametrize(("size", "pad"), [((7, 9), 2), ((8, 8), 4), ((5, 5), 0)])
def test_views_are_crop_replicate_crop_with_offsets_from_0_to_pad(size, pad):
    frames = torch.arange(200 * 3 * size[0] * size[1]).reshape(200, 3, *size) % 251
    views = crop_and_shift(frames, pad=pad, generator=torch.Generator().manual_seed(0))
    offsets = torch.randint(pad + 1, (4, 200), generator=torch.Generator().manual_seed(0)).T.tolist()
    assert views.shape == frames.shape
    for view, frame, drawn in zip(views, frames, offsets):
        torch.testing.assert_close(view.float(), slow_view(frame, pad, *drawn))
    assert {offset for drawn in offsets for offset in drawn} == set(range(pad + 1))


def test_views_refuse_a_crop_that_leaves_nothing():
    with pytest.raises(ValueError, match="pad=8 must be at least 0 and smaller"):
        crop_and_shift(torch.zeros(1, 1, 8, 8), pad=8)
