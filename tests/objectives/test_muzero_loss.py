"""The unrolled loss: what counts, what does not, and with which factor."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.models import make_world_model
from xtra_rl.objectives import LaggingTarget, MuZeroLoss, random_batch

K, A = 3, 4
SIZES = {
    "image_size": 16, "image_channels": 1, "num_actions": A, "channels": 4, "downsample": 4, "lstm_hidden": 8,
    "support_size": 5, "projection_hidden": 8, "projection_out": 8, "predictor_hidden": 4, "head_hidden": 8,
}  # fmt: skip


def batch(size=6):
    return random_batch(size, unroll_steps=K, observation_shape=(4, 16, 16), num_actions=A)


def make_loss(**options):
    model = make_world_model(**SIZES)
    # The heads start at zero; losses of such a model would not depend on the input.
    for parameter in model.parameters():
        if (parameter == 0).all() and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return MuZeroLoss(model, **options)


def test_untrained_model_pays_the_entropy_of_a_uniform_guess():
    """K+1 policies over A actions, K+1 values and K rewards over S bins; divided by K, with the coefficients."""
    losses = MuZeroLoss(make_world_model(**SIZES))(batch())
    log = torch.log
    assert losses["loss_policy"].item() == pytest.approx(
        (K + 1) / K * log(torch.tensor(float(A))).item(), rel=1e-4
    )
    assert losses["loss_value"].item() == pytest.approx(
        0.25 * (K + 1) / K * log(torch.tensor(11.0)).item(), rel=1e-4
    )
    assert losses["loss_reward"].item() == pytest.approx(log(torch.tensor(11.0)).item(), rel=1e-4)


@pytest.mark.parametrize("term", ["policy", "value", "reward"])
def test_a_target_that_does_not_count_may_be_nan(term):
    loss, data = make_loss(), batch()
    for sample in range(3):
        data[f"{term}_mask"][sample] = False
        data[f"{term}_target"][sample] = torch.nan
    outputs = loss(data)
    sum(outputs[f"loss_{name}"] for name in ("policy", "value", "reward", "consistency")).backward()
    assert all(output.isfinite() for output in outputs.values())
    assert all(p.grad.isfinite().all() for p in loss.parameters() if p.grad is not None)
    data[f"{term}_mask"] = torch.ones_like(data[f"{term}_mask"])
    assert loss(data)[f"loss_{term}"].isnan()  # one that counts is seen


def test_logits_of_illegal_actions_may_be_minus_infinity(monkeypatch):
    loss, data = make_loss(), batch()
    data["policy_target"][..., 0] = 0
    predict = loss.world_model.predict

    def without_the_first(latent):
        policy, value = predict(latent)
        return policy.masked_fill(torch.arange(A) == 0, -torch.inf), value

    monkeypatch.setattr(loss.world_model, "predict", without_the_first)
    outputs = loss(data)
    outputs["loss_policy"].backward()
    assert outputs["loss_policy"].isfinite()
    assert 0 < outputs["policy_entropy"] < torch.log(torch.tensor(float(A)))
    assert all(p.grad.isfinite().all() for p in loss.parameters() if p.grad is not None)


@pytest.mark.parametrize("key", ["priority_weight", "task_weight"])
def test_weights_with_a_dimension_of_one_are_refused(key):
    data = batch().set(key, torch.ones(6, 1))
    with pytest.raises(ValueError, match=rf"'{key}' has shape \[6, 1\]; expected \[6\]"):
        make_loss()(data)


def test_the_key_of_the_tasks_can_be_renamed():
    loss, data = make_loss(), batch()
    loss.set_keys(task_id="game")
    losses, _ = loss.task_losses(data.set("game", torch.tensor([0, 0, 0, 1, 1, 1])), 2)
    assert losses.shape == (2,)


@pytest.mark.parametrize("term", ["policy", "value", "reward", "consistency"])
def test_masked_targets_change_nothing_and_get_no_gradient(term):
    loss, data = make_loss(), batch()
    data[f"{term}_mask"] = torch.zeros_like(data[f"{term}_mask"])
    changed = data.clone()
    key = "next_observation" if term == "consistency" else f"{term}_target"
    changed[key] = torch.rand_like(changed[key].float()).to(changed[key].dtype)
    first, second = loss(data)[f"loss_{term}"], loss(changed)[f"loss_{term}"]
    assert first.item() == 0
    assert second.item() == 0


def test_a_batch_without_steps_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        make_loss()(random_batch(2, unroll_steps=0, observation_shape=(4, 16, 16), num_actions=A))


@pytest.mark.parametrize("term", ["policy", "value", "reward", "consistency"])
def test_coefficients_scale_their_own_term_only(term):
    torch.manual_seed(0)
    plain = make_loss()
    torch.manual_seed(0)
    doubled = make_loss(**{f"{term}_coef": 2 * plain.coefs[term]})
    data = batch()
    one, two = plain(data.clone()), doubled(data.clone())
    for name in plain.coefs:
        factor = 2.0 if name == term else 1.0
        torch.testing.assert_close(two[f"loss_{name}"], factor * one[f"loss_{name}"])


def test_latent_gradient_is_halved_at_every_step():
    """With the policy loss at position k alone, the gradient of the root frame is 0.5**k times the unscaled one."""
    loss = make_loss(value_coef=0.0, reward_coef=0.0, consistency_coef=0.0)
    loss.world_model.eval()
    data = batch()
    norms = {}
    for scale in (0.5, 1.0):
        loss.latent_gradient_scale = scale
        for k in range(K + 1):
            one = data.clone()
            one["policy_mask"] = torch.zeros_like(one["policy_mask"])
            one["policy_mask"][:, k] = True
            one["observation"] = one["observation"].float().div(255).requires_grad_()
            loss(one)["loss_policy"].backward()
            norms[scale, k] = one["observation"].grad.clone()
    for k in range(K + 1):
        torch.testing.assert_close(norms[0.5, k], 0.5**k * norms[1.0, k], rtol=1e-4, atol=1e-9)


def test_priority_is_the_error_of_the_root_value():
    loss, data = make_loss(), batch()
    loss.world_model.eval()
    loss(data)
    value = loss.world_model.initial_inference(data["observation"]).value
    torch.testing.assert_close(data["td_error"], (value - data["value_target"][:, 0]).abs() + 1e-6)


def test_sample_weights_multiply_each_sample():
    loss, data = make_loss(reduction="none"), batch()
    loss.world_model.eval()
    plain = loss(data.clone())
    data["priority_weight"] = torch.tensor([0.0, 1.0, 2.0, 1.0, 1.0, 1.0])
    data["task_weight"] = torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0, 0.0])
    weighted = loss(data)
    for name in loss.coefs:
        expected = plain[f"loss_{name}"] * torch.tensor([0.0, 0.5, 2.0, 1.0, 1.0, 0.0])
        torch.testing.assert_close(weighted[f"loss_{name}"], expected)


def test_task_losses_are_means_over_each_task_and_add_up_to_the_whole():
    loss, data = make_loss(), batch()
    loss.world_model.eval()
    data["task_id"] = torch.tensor([0, 0, 2, 2, 2, 2])
    losses, _ = loss.task_losses(data, 3)
    per_sample = sum(loss.per_sample(data)[name] for name in loss.coefs)
    torch.testing.assert_close(losses[0], per_sample[:2].mean())
    torch.testing.assert_close(losses[2], per_sample[2:].mean())
    assert losses[1] == 0
    total = sum(value for key, value in loss(data).items() if key.startswith("loss_"))
    torch.testing.assert_close((2 * losses[0] + 4 * losses[2]) / 6, total)


def test_consistency_rewards_the_latents_of_the_real_frames():
    """Predicted and encoded latents of a motionless world agree once trained on: the loss falls towards -coef."""
    torch.manual_seed(1)
    loss = make_loss(policy_coef=0.0, value_coef=0.0, reward_coef=0.0)
    data = batch(32)
    data["next_observation"] = data["observation"].unsqueeze(1).expand(-1, K, -1, -1, -1).clone()
    optimizer = torch.optim.Adam(loss.parameters(), lr=3e-3)
    first = loss(data)["loss_consistency"].item()
    for _ in range(60):
        value = loss(data)["loss_consistency"]
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    # The bound is -coef = -2.
    assert value.item() < first - 0.6


def test_consistency_target_side_gets_no_gradient():
    loss = make_loss(policy_coef=0.0, value_coef=0.0, reward_coef=0.0)
    data = batch()
    data["next_observation"] = data["next_observation"].float().div(255).requires_grad_()
    loss(data)["loss_consistency"].backward()
    assert data["next_observation"].grad is None


def test_without_consistency_the_next_frames_are_not_needed():
    loss = make_loss(consistency_coef=0.0)
    data = batch().exclude("next_observation", "consistency_mask")
    assert loss(data)["loss_consistency"] == 0
    assert "next_observation" not in loss.in_keys


def test_joint_statistics_change_batchnorm_only():
    """In eval mode, where BatchNorm is a fixed affine map, one call of the heads equals K + 1 calls."""
    torch.manual_seed(0)
    single = make_loss()
    joint = MuZeroLoss(single.world_model, joint_statistics=True)
    single.world_model.eval()
    data = batch()
    left, right = single(data.clone()), joint(data.clone())
    for key in left.keys():
        torch.testing.assert_close(left[key], right[key], rtol=1e-4, atol=1e-5)


def test_long_unroll_restarts_the_value_prefix_as_the_targets_do():
    """With horizon 2 the LSTM sees at most two steps: the state is zero at the root and again at step 3."""
    model = make_world_model(**SIZES, value_prefix_horizon=2)
    torch.nn.init.normal_(model.dynamics.reward_head.out[-1].weight)
    model.eval()
    loss = MuZeroLoss(model)
    states = []
    step = model.step
    model.step = lambda latent, action, state: (
        states.append(state[0].abs().sum().item()) or step(latent, action, state)
    )
    loss(batch())
    assert [value == 0 for value in states] == [True, False, True]


def test_keys_can_be_renamed_and_nested():
    loss, data = make_loss(), batch()
    data["targets", "value"] = data.pop("value_target")
    loss.set_keys(value_target=("targets", "value"), priority=("replay", "priority"))
    loss(data)
    assert ("replay", "priority") in data.keys(True)


@pytest.mark.slow
def test_overfitted_batch_loses_its_losses():
    torch.manual_seed(0)
    loss, data = MuZeroLoss(make_world_model(**SIZES)), batch(8)
    data["policy_target"] = torch.nn.functional.one_hot(data["policy_target"].argmax(-1), A).float()
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    history = []
    for _ in range(150):
        losses = loss(data)
        total = sum(losses[key] for key in losses.keys() if key.startswith("loss_"))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append({key: losses[key].item() for key in losses.keys()})
    assert history[-1]["loss_policy"] < 0.2 * history[0]["loss_policy"]
    # Two-hot targets between atoms keep an entropy that no model can go below.
    assert history[-1]["loss_value"] < 0.5 * history[0]["loss_value"]
    assert history[-1]["loss_reward"] < 0.5 * history[0]["loss_reward"]
    assert history[-1]["value_error"] < 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"value_coef": -1}, "value_coef is -1"), ({"reduction": "max"}, "reduction is 'max'")],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_loss(**options)


def test_target_lags_between_one_and_two_intervals_and_takes_batchnorm_statistics_along():
    source = torch.nn.BatchNorm1d(1)
    target = LaggingTarget(source, interval=2)
    seen = []
    for step in range(1, 7):
        source.running_mean.fill_(step)
        with torch.no_grad():
            source.weight.fill_(step)
        target.step()
        assert target.module.running_mean.item() in (target.module.weight.item(), 0.0)
        seen.append(target.module.running_mean.item())
    # Published at steps 2, 4, 6 is what the source was at steps 0, 2, 4.
    assert seen == [0.0, 0.0, 0.0, 2.0, 2.0, 4.0]
    assert not target.module.training


def test_target_without_lag_publishes_the_current_weights():
    source = torch.nn.Linear(1, 1)
    target = LaggingTarget(source, interval=2, lag=False)
    with torch.no_grad():
        source.weight.fill_(5.0)
    target.step()
    assert target.module.weight.item() != 5.0
    target.step()
    assert target.module.weight.item() == 5.0


def test_target_state_survives():
    source = torch.nn.Linear(1, 1)
    target = LaggingTarget(source, interval=2)
    target.step()
    restored = LaggingTarget(torch.nn.Linear(1, 1), interval=2)
    restored.load_state_dict(target.state_dict())
    target.step()
    restored.step()
    assert torch.equal(target.module.weight, restored.module.weight)


def test_interval_must_be_positive():
    with pytest.raises(ValueError, match="interval is 0"):
        LaggingTarget(torch.nn.Linear(1, 1), interval=0)
