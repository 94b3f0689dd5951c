"""World models with a vector as latent."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from xtra_rl.models import InferenceModel, make_world_model
from xtra_rl.models.vector import VectorRepresentation


def vector_model(**overrides):
    sizes = {
        "latent": "vector", "image_size": 36, "image_channels": 1, "num_actions": 5, "channels": 8, "head_hidden": 16,
        "latent_features": 12, "dynamics_hidden": 24, "value_prefix": False, "support_size": 5,
        "projection_hidden": 16, "projection_out": 16, "predictor_hidden": 8,
    }  # fmt: skip
    torch.manual_seed(0)
    return make_world_model(**sizes | overrides)


def disturbed(**overrides):
    """With no weight left at zero."""
    model = vector_model(**overrides)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, 0, 0.5)
    return model


def frames(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, 4, 36, 36), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def unroll(model, observation):
    root = model.initial_inference(observation)
    seen, embedding = [root.prior_logits, root.value, root.embedding["latent"]], root.embedding
    for action in ([0, 1, 4], [3, 3, 2]):
        output, embedding = model.recurrent_inference(torch.tensor(action), embedding)
        seen += [*output, embedding["latent"]]
    return seen


def test_the_first_convolution_centres_and_scales():
    """Against the plain computation: pixels to [-1/2, 1/2], times the gain, then the layers one after another."""
    network = VectorRepresentation(4, 36, channels=8, latent=12, gain=7.0)
    layers = network.first, network.second, network.third
    for layer in layers:
        torch.nn.init.normal_(layer.bias)
    observation = frames(3)
    out = 7.0 * (observation.float() / 255 - 0.5)
    for layer in layers:
        out = F.relu(layer(out))
    expected = network.norm(network.linear(out.flatten(1)))[:, :, None, None]
    torch.testing.assert_close(network(observation), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network(observation.float() / 255), expected, rtol=1e-4, atol=1e-4)


def test_untrained_model_predicts_zero_value_reward_and_a_uniform_policy():
    seen = unroll(vector_model(), frames(3))
    for logits_or_scalar in (seen[0], seen[1], seen[3], seen[4], seen[5]):
        assert logits_or_scalar.abs().max() < 1e-6


def test_training_and_evaluation_are_the_same_network():
    """Nothing depends on the other samples of a batch."""
    model = disturbed()
    trained = unroll(model.train(), frames(3))
    for one, other in zip(unroll(model.eval(), frames(3)), trained, strict=True):
        assert torch.equal(one, other)
    alone = model.represent(frames(3)[:1])
    torch.testing.assert_close(alone, model.represent(frames(3))[:1], rtol=1e-4, atol=1e-5)


def test_the_engine_of_the_search_agrees():
    model = disturbed().eval()
    for one, other in zip(unroll(InferenceModel(model), frames(3)), unroll(model, frames(3)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_the_action_changes_the_next_latent():
    model = disturbed()
    latent = model.represent(frames(1)).expand(2, -1, -1, -1)
    after, _, _ = model.step(latent, torch.tensor([0, 3]), None)
    assert (after[0] - after[1]).abs().max() > 0.01


def test_what_moves_shows_in_the_latent():
    """A sprite of 3x3 pixels on an even ground, elsewhere: a third of the latent's length and more."""
    grounds = torch.full((2, 4, 36, 36), 128, dtype=torch.uint8)
    grounds[0, :, 5:8, 5:8] = 200
    grounds[1, :, 25:28, 25:28] = 200
    here, there = vector_model().represent(grounds).flatten(1)
    assert (here - there).norm() > here.norm() / 3


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"value_prefix": True}, "value_prefix=True needs latent='map'"),
        ({"image_size": 35}, "at least 36 pixels"),
        ({"channels": 7}, "channels=7"),
        ({"latent_features": 0}, "latent_features is 0"),
        ({"latent": "tensor"}, "latent is 'tensor'"),
    ],
)
def test_bad_sizes_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        vector_model(**sizes)
