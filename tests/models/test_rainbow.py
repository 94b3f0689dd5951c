"""The network of data-efficient Rainbow, its noise, and the policy that acts with it."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import NoisyLinear

from xtra_rl.models import RainbowNetwork, RainbowPolicy
from xtra_rl.models.rainbow import resample_noise

A, SIDE, ATOMS = 4, 32, 11
LEGAL = torch.tensor([True, False, True, True])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network_of(**changes):
    return RainbowNetwork(**{"image_size": SIDE, "num_actions": A, "hidden": 16, "atoms": ATOMS, **changes})


def observations(size):
    frames = torch.randint(256, (size, 4, SIDE, SIDE), dtype=torch.uint8)
    return TensorDict({"observation": frames, "action_mask": LEGAL.expand(size, A)}, [size])


def test_noise_is_torchrl_s_and_comes_from_the_generator_alone():
    """Factorised: every weight's noise is the product of its row's and its column's, the row's is the bias's."""
    network = network_of()
    state = torch.get_rng_state()
    resample_noise(network, generator(3))
    assert torch.equal(torch.get_rng_state(), state)
    layers = [layer for layer in network.modules() if isinstance(layer, NoisyLinear)]
    assert len(layers) == 4
    for layer in layers:
        assert torch.linalg.matrix_rank(layer.weight_epsilon) == 1
        ratio = layer.weight_epsilon / layer.bias_epsilon[:, None]
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-3, atol=1e-4)
    drawn = torch.cat([layer.weight_epsilon.flatten() for layer in layers])
    resample_noise(network, generator(3))
    assert torch.equal(drawn, torch.cat([layer.weight_epsilon.flatten() for layer in layers]))


def test_policy_is_noisy_while_it_explores_and_strays_by_epsilon_when_greedy():
    network = network_of(noise_std=5.0)
    data = observations(64)
    policy = RainbowPolicy(network, epsilon=0.0, generator=generator())
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        greedy = [policy(data)["action"].clone() for _ in range(2)]
        wanted = network.action_values(data["observation"], data["action_mask"]).argmax(-1)
    assert torch.equal(greedy[0], wanted)
    assert torch.equal(greedy[0], greedy[1])
    noisy = [policy(data)["action"].clone() for _ in range(4)]  # TorchRL's default is to explore
    assert any(not torch.equal(actions, greedy[0]) for actions in noisy)
    alike = observations(1).expand(64).contiguous()
    assert len(policy(alike)["action"].unique()) > 1  # games side by side explore each its own way
    policy.epsilon = 1.0
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        drawn = torch.cat([policy(data)["action"] for _ in range(10)])
    assert set(drawn.tolist()) == {0, 2, 3}
    with pytest.raises(ValueError, match="no legal action"):
        policy(data.set("action_mask", torch.zeros(64, A, dtype=torch.bool)))


def test_best_action_is_legal_even_if_every_legal_value_is_negative():
    """TorchRL's masked actor takes the illegal one here, whose value it sets to 0."""
    network = network_of()
    with torch.no_grad():
        network.value[-1].bias_mu.fill_(0.0)[0] = 50.0  # all mass at the lowest atom
    batch = observations(6)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        values = network.action_values(batch["observation"], batch["action_mask"])
    assert (values[:, LEGAL] < -9).all()
    assert (values[:, ~LEGAL] == -torch.inf).all()
    assert LEGAL[values.argmax(-1)].all()


def test_published_sizes():
    """576 features, 256 hidden, 51 atoms, a projection 576-256-128 and a bilinear product of 128."""
    network = RainbowNetwork(image_size=84)
    shapes = {name: tuple(value.shape) for name, value in network.named_parameters()}
    assert shapes["convolutions.0.weight"] == (32, 4, 5, 5)
    assert shapes["convolutions.2.weight"] == (64, 32, 5, 5)
    assert shapes["advantage.0.weight_mu"] == shapes["value.0.weight_mu"] == (256, 576)
    assert shapes["value.2.weight_mu"] == (51, 256)
    assert shapes["advantage.2.weight_mu"] == (18 * 51, 256)
    assert (shapes["projection.0.weight"], shapes["projection.3.weight"]) == ((256, 576), (128, 256))
    assert shapes["similarity"] == (128, 128)
    assert network.support[[0, -1]].tolist() == [-10, 10]
    # Published: sigma is 0.1 / sqrt(fan in).
    assert network.value[0].weight_sigma[0, 0].item() == pytest.approx(0.1 / math.sqrt(576))


def test_frames_too_small_for_the_convolutions_are_refused():
    with pytest.raises(ValueError, match="image_size is 24; expected at least 25"):
        RainbowNetwork(image_size=24)
