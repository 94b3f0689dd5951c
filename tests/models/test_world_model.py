"""Sizes and inference of the world model."""

from __future__ import annotations

import pytest
import torch
from small_models import small_model
from torch import nn

from xtra_rl.models import InferenceModel, make_world_model


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("num_blocks", "representation"),
    [(1, 318_016), (4, 1_039_552)],
    ids=["EfficientZero-S", "EfficientZero-L"],
)
def test_parameter_counts_are_the_published_ones(num_blocks, representation):
    model = make_world_model(num_blocks=num_blocks)
    # The official dynamics builds 73,984 parameters that it never calls.
    assert count(model.representation) == representation
    assert count(model.dynamics) == 2_456_265 - 73_984
    assert count(model.prediction) == 133_611
    assert count(model.projection.projector) == 4_465_664
    assert count(model.projection.predictor) == 1_051_136


def test_latent_of_the_paper_is_64_by_6_by_6():
    model = make_world_model().eval()
    with torch.no_grad():
        out = model.initial_inference(torch.zeros(1, 12, 96, 96, dtype=torch.uint8))
    assert out.embedding["latent"].shape == (1, 64, 6, 6)
    assert out.prior_logits.shape == (1, 18)


def test_untrained_model_predicts_zero_value_reward_and_a_uniform_policy():
    model = small_model().eval()
    root = model.initial_inference(torch.rand(3, 4, 32, 32))
    step, _ = model.recurrent_inference(torch.tensor([0, 1, 4]), root.embedding)
    for scalar in (root.value, step.value, step.reward):
        assert scalar.abs().max() < 1e-6
    assert (root.prior_logits == 0).all()


@pytest.mark.parametrize("latent", ["map", "vector"])
def test_in_double_precision_it_takes_frames_too(latent):
    model = small_model(latent=latent, value_prefix=latent == "map", image_size=36).double().eval()
    frames = torch.randint(256, (2, 4, 36, 36), dtype=torch.uint8)
    found = model.represent(frames)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, model.represent(frames.double() / 255))


def test_uint8_and_scaled_float_frames_give_the_same_latent():
    model = small_model().eval()
    frames = torch.randint(256, (2, 4, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(model.represent(frames), model.represent(frames.float() / 255))


def test_lstm_state_restarts_at_the_horizon_and_not_before():
    """The same latent, action and depth gives another prefix after other histories, except just past the horizon."""
    model = small_model(value_prefix_horizon=2).eval()
    torch.nn.init.normal_(model.dynamics.reward_head.out[-1].weight)
    root = model.initial_inference(torch.rand(1, 4, 32, 32)).embedding
    action = torch.tensor([1])
    for depth, restarts in ((1, False), (2, True), (3, False), (4, True)):
        prefixes = []
        for history in (0.0, 1.0):
            node = root.clone()
            node["depth"] = torch.full_like(node["depth"], depth)
            node["hidden"] = torch.full_like(node["hidden"], history)
            node["cell"] = torch.full_like(node["cell"], history)
            prefixes.append(model.recurrent_inference(action, node)[0].reward)
        assert torch.equal(*prefixes) is restarts, depth


def test_embedding_counts_its_depth():
    model = small_model().eval()
    embedding = model.initial_inference(torch.rand(2, 4, 32, 32)).embedding
    for depth in range(3):
        assert (embedding["depth"] == depth).all()
        _, embedding = model.recurrent_inference(torch.zeros(2, dtype=torch.int64), embedding)


def test_plain_reward_head_has_no_state():
    model = small_model(value_prefix=False).eval()
    assert model.value_prefix_horizon is None
    assert set(model.initial_inference(torch.rand(2, 4, 32, 32)).embedding.keys()) == {"latent"}


@pytest.mark.parametrize("encoding", ["plane", "embedding"])
def test_action_changes_the_next_latent(encoding):
    model = small_model(action_encoding=encoding).eval()
    latent = model.represent(torch.rand(1, 4, 32, 32)).expand(2, -1, -1, -1)
    after, _, _ = model.step(latent, torch.tensor([0, 3]), model.initial_state(latent))
    assert not torch.allclose(after[0], after[1])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"channels": -8}, "channels is -8"),
        ({"num_actions": 0}, "num_actions is 0"),
        ({"downsample": 5}, "downsample is 5; expected 4, 8 or 16"),
        ({"action_encoding": "onehot"}, "action_encoding is 'onehot'"),
        ({"value_prefix_horizon": 0}, "value_prefix_horizon is 0"),
    ],
)
def test_bad_sizes_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        small_model(**sizes)


@pytest.mark.parametrize("wrap", [lambda model: model, InferenceModel], ids=["model", "engine"])
@pytest.mark.parametrize(("value_prefix", "horizon"), [(True, None), (False, 5)])
def test_a_reward_head_and_a_horizon_that_do_not_fit_are_named(wrap, value_prefix, horizon):
    model = small_model(value_prefix=value_prefix).eval()
    model.value_prefix_horizon = horizon
    config = small_model().config
    frames = torch.zeros(1, config["frame_stack"] * config["image_channels"], *[config["image_size"]] * 2)
    with pytest.raises(ValueError, match=f"value_prefix_horizon is {horizon}, but the reward head has"):
        wrap(model).initial_inference(frames)


def test_a_model_with_a_part_of_ones_own_forgets_how_it_was_made():
    model = small_model()
    assert model.config
    model.load_state_dict(model.state_dict())
    assert model.config
    model.representation = nn.Identity()
    assert model.config == {}
