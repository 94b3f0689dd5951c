"""Value transform and two-hot coding, against numbers worked by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xtra_rl.models import Support, inverse_value_transform, value_transform


def test_transform_of_three_and_minus_three():
    # h(3) = sqrt(4) - 1 + 0.003 = 1.003; h is odd. XTRA's official form gives -0.997 for -3.
    torch.testing.assert_close(value_transform(torch.tensor([3.0, -3.0])), torch.tensor([1.003, -1.003]))


@given(st.floats(-80_000, 80_000))
@settings(max_examples=200, deadline=None)
def test_inverse_undoes_the_transform(x):
    value = torch.tensor(x, dtype=torch.float64)
    assert inverse_value_transform(value_transform(value)).item() == pytest.approx(x, rel=1e-6, abs=1e-6)


def test_inverse_is_accurate_in_float32_near_zero():
    # The textbook form of the inverse is off by 6e-5 here.
    small = torch.tensor([1e-3, -1e-3, 0.0])
    torch.testing.assert_close(inverse_value_transform(value_transform(small)), small, atol=1e-6, rtol=1e-3)


def test_two_hot_of_three():
    # h(3) = 1.003 lies between atoms 1 and 2: 0.997 and 0.003.
    encoded = Support(5).encode(torch.tensor(3.0))
    expected = torch.zeros(11)
    expected[6], expected[7] = 0.997, 0.003
    torch.testing.assert_close(encoded, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("scalar", "atom"), [(1e9, 10), (-1e9, 0)])
def test_values_outside_the_support_sit_on_its_last_atom(scalar, atom):
    encoded = Support(5).encode(torch.tensor(scalar))
    assert encoded[atom] == 1
    assert encoded.sum() == 1


def test_decode_inverts_encode():
    support = Support(300)
    scalars = torch.tensor([0.0, 1.0, -1.0, 12.5, -400.0, 20_000.0])
    decoded = support.decode(support.encode(scalars).clamp(min=1e-30).log())
    torch.testing.assert_close(decoded, scalars, rtol=1e-2, atol=1e-3)


def test_zero_logits_decode_to_zero():
    # Up to the rounding of a mean over 601 atoms as large as 300.
    assert Support(300).decode(torch.zeros(601)).abs() < 1e-5


def test_cross_entropy_equals_the_one_written_out():
    support = Support(7)
    logits, scalars = torch.randn(20, 15), torch.randn(20) * 30
    written_out = -(support.encode(scalars) * logits.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(support.cross_entropy(logits, scalars), written_out)


def test_support_must_be_positive():
    with pytest.raises(ValueError, match="support size is 0"):
        Support(0)


def test_nan_gives_a_nan_loss_and_not_an_index_error():
    losses = Support(5).cross_entropy(torch.zeros(2, 11), torch.tensor([float("nan"), 1.0]))
    assert losses.isnan().tolist() == [True, False]


def test_double_logits_are_not_rounded_on_the_way():
    support = Support(7)
    logits = torch.randn(20, 15, dtype=torch.float64)
    atoms = torch.arange(-7, 8, dtype=torch.float64)
    expected = inverse_value_transform((logits.exp() / logits.exp().sum(-1, keepdim=True) * atoms).sum(-1))
    torch.testing.assert_close(support.decode(logits), expected, rtol=1e-12, atol=1e-12)
    zeros = support.cross_entropy(logits, torch.zeros(20))
    torch.testing.assert_close(zeros, -logits.log_softmax(-1)[:, 7], rtol=1e-14, atol=0)
    half = logits.bfloat16()
    assert support.decode(half).dtype == support.cross_entropy(half, torch.zeros(20)).dtype == torch.float32


def test_scalars_are_decoded_in_full_precision_under_autocast():
    support, scalar = Support(300), torch.tensor([0.5, 8.0, 30.0, 200.0])
    logits = (support.encode(scalar) + 1e-12).log()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = support.decode(logits)
    assert torch.equal(found, support.decode(logits))
    torch.testing.assert_close(found, scalar, rtol=1e-3, atol=1e-3)
