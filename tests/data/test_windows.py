"""Stacking frames by view."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.data import stack_frames


@pytest.mark.parametrize("channels", [1, 3])
def test_stack_equals_concatenation_and_shares_memory(channels):
    pixels = torch.randint(0, 256, (2, 7, channels, 4, 5), dtype=torch.uint8)
    stacked = stack_frames(pixels, 4)
    assert stacked.shape == (2, 4, 4 * channels, 4, 5)
    for position in range(4):
        expected = torch.cat([pixels[:, position + i] for i in range(4)], 1)
        assert torch.equal(stacked[:, position], expected)
    assert stacked.untyped_storage().data_ptr() == pixels.untyped_storage().data_ptr()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="frame_stack=5"):
        stack_frames(torch.zeros(1, 4, 1, 2, 2), 5)
    with pytest.raises(ValueError, match=r"\(4, 1, 2, 2\)"):
        stack_frames(torch.zeros(4, 1, 2, 2), 2)
