"""Exploration noise has the stated distribution and comes from its generator only."""

from __future__ import annotations

import torch

from xtra_rl.search.noise import dirichlet_noise, gumbel_noise


def test_dirichlet_noise_is_symmetric_over_legal_actions_with_the_variance_of_alpha():
    mask = torch.tensor([True, True, False, True]).expand(20_000, -1)
    noise = dirichlet_noise(mask, 0.3, torch.Generator().manual_seed(0))
    assert not noise[:, 2].any()
    torch.testing.assert_close(noise.sum(-1), torch.ones(20_000))
    legal = noise[:, [0, 1, 3]]
    # n = 3 actions: mean 1/n, variance (1/n)(1 - 1/n) / (n alpha + 1) = 0.1170; standard error of the mean
    # 0.0024.
    assert ((legal.mean(0) - 1 / 3).abs() < 0.012).all()
    assert ((legal.var(0) - 0.1170).abs() < 0.005).all()


def test_a_single_legal_action_gets_all_noise():
    mask = torch.eye(4, dtype=torch.bool)
    assert torch.equal(dirichlet_noise(mask, 0.01, torch.Generator().manual_seed(0)), torch.eye(4))


def test_gumbel_noise_makes_argmax_a_sample_of_the_softmax():
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    mask = torch.ones(20_000, 3, dtype=torch.bool)
    noise = gumbel_noise(mask, torch.Generator().manual_seed(0))
    frequency = (noise + probabilities.log()).argmax(-1).bincount() / 20_000
    # Standard error at most sqrt(0.25 / 20000) = 0.0035.
    assert ((frequency - probabilities).abs() < 0.018).all()
    assert noise.isfinite().all()


def test_noise_is_a_function_of_the_generator():
    mask = torch.ones(3, 4, dtype=torch.bool)
    for draw in (lambda g: dirichlet_noise(mask, 0.3, g), lambda g: gumbel_noise(mask, g)):
        first = draw(torch.Generator().manual_seed(1))
        torch.rand(7)
        assert torch.equal(first, draw(torch.Generator().manual_seed(1)))
        assert not torch.equal(first, draw(torch.Generator().manual_seed(2)))
