"""One optimiser step over several tasks."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch

from xtra_rl.models import make_world_model
from xtra_rl.objectives import LaggingTarget, MuZeroLoss, random_batch
from xtra_rl.training.learner import Learner, NonFiniteLoss
from xtra_rl.training.schedules import linear, make_optimizer, piecewise, warmup_factor
from xtra_rl.transfer import (
    PCGrad,
    TaskWeighting,
    TaskWeightScheduler,
    freeze_components,
    task_gradients,
)

K, A, F = 2, 4, 2
SIZES = {
    "image_size": 16, "image_channels": 1, "frame_stack": F, "num_actions": A, "channels": 4, "downsample": 4,
    "lstm_hidden": 8, "support_size": 5, "projection_hidden": 8, "projection_out": 8, "predictor_hidden": 4,
}  # fmt: skip


def batch(task_id, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = random_batch(len(task_id), unroll_steps=K, observation_shape=(F, 16, 16), num_actions=A)
        made["pixels"] = torch.randint(256, (len(task_id), F + K, 1, 16, 16), dtype=torch.uint8)
    made["task_id"] = torch.tensor(task_id)
    made["index"] = torch.arange(len(task_id))
    return made.exclude("observation", "next_observation")


def learner(tasks=("alien", "amidar"), *, seed=0, lr=0.01, **options):
    torch.manual_seed(seed)
    model = make_world_model(**SIZES)
    loss = MuZeroLoss(model)
    optimizer = make_optimizer(model, name="sgd", lr=lr, momentum=0.0, weight_decay=0.0)
    defaults = {"tasks": tasks, "frame_stack": F, "augmentation": False, "max_grad_norm": 1e9}
    return Learner(loss, optimizer, **(defaults | options))


def change(one, data):
    """Parameters after a step less those before it."""
    before = [p.detach().clone() for p in one.parameters]
    metrics = one.step(data)
    return torch.cat([(p.detach() - b).flatten() for p, b in zip(one.parameters, before)]), metrics


def weights_with(task, value, **options):
    scheduler = TaskWeightScheduler([task], **options)
    scheduler.load_state_dict(scheduler.state_dict() | {"weights": {task: value}})
    return scheduler


@pytest.mark.parametrize(
    ("options", "message"),
    [({"autocast": torch.float16}, "expected torch.bfloat16"), ({"tasks": []}, "at least one task")],
)
def test_what_cannot_learn_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        learner(**options)


def test_a_loss_that_is_no_mean_is_refused():
    model = make_world_model(**SIZES)
    with pytest.raises(ValueError, match="reduction='sum'"):
        Learner(MuZeroLoss(model, reduction="sum"), make_optimizer(model), tasks=["alien"])


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_measuring_step_takes_the_same_update_as_a_plain_one(reduction):
    data = [0, 0, 1, 1, 1, 1]
    never = weights_with("amidar", 0.3, start=10**6)
    now = weights_with("amidar", 0.3, start=0)
    plain, metrics = change(learner(task_weights=never, reduction=reduction), batch(data))
    measured, more = change(learner(task_weights=now, reduction=reduction), batch(data))
    torch.testing.assert_close(measured, plain, rtol=1e-4, atol=1e-8)
    assert set(more) - set(metrics) == {"grad_cos/amidar"}
    assert -1 <= more["grad_cos/amidar"] <= 1


@pytest.mark.parametrize("start", [0, 10**6], ids=["measuring", "plain"])
def test_what_is_frozen_or_in_no_loss_stays_as_it_is(start):
    """Also in the hands of an optimiser that decays all it was given."""
    torch.manual_seed(0)
    model = make_world_model(**SIZES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    freeze_components(model, ["representation"])
    weights = weights_with("amidar", 0.3, start=start)
    one = Learner(
        MuZeroLoss(model, consistency_coef=0), optimizer, tasks=["alien", "amidar"], frame_stack=F,
        augmentation=False, task_weights=weights,
    )  # fmt: skip
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for seed in range(2):
        one.step(batch([0, 0, 1, 1], seed))
    moved = {name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"dynamics", "prediction"}


def test_logged_losses_are_plain_means_of_each_task():
    data = batch([0, 0, 1, 1, 1, 1])
    data["priority_weight"] = torch.tensor([0.1, 1.0, 0.5, 0.2, 0.3, 0.9])
    for start in (0, 10**6):
        metrics = learner(task_weights=weights_with("amidar", 0.3, start=start)).step(one := data.clone())
        for head, terms in one["sample_loss"].items():
            torch.testing.assert_close(metrics[f"loss/alien/{head}"], terms[:2].mean())
            torch.testing.assert_close(metrics[f"loss/amidar/{head}"], terms[2:].mean())
        weight = one["priority_weight"] * one["task_weight"]
        total = sum((weight * terms).mean() for terms in one["sample_loss"].values())
        torch.testing.assert_close(metrics["loss/total"], total)


def test_gradients_have_the_strides_of_their_parameters():
    """Fused optimisers ignore strides: a gradient in another memory format would be applied to the wrong weights."""
    for start in (0, 10**6):
        one = learner(task_weights=weights_with("amidar", 0.3, start=start))
        one.step(batch([0, 0, 1, 1]))
        assert any(p.is_contiguous(memory_format=torch.channels_last) for p in one.parameters if p.ndim == 4)
        assert all(p.grad.stride() == p.stride() for p in one.parameters)


def test_identical_tasks_have_cosine_one():
    one = learner(task_weights=TaskWeightScheduler(["amidar"], start=0))
    assert one.step(twins(opposed=False))["grad_cos/amidar"].item() == pytest.approx(1.0, abs=1e-5)


def test_task_of_weight_zero_changes_nothing_but_batchnorm():
    """In eval-mode BatchNorm a cross task without weight leaves no trace in the update."""
    data = batch([0, 0, 1, 1])
    other = data.clone()
    other["value_target"][2:] += 50
    one, two = (learner(task_weights=weights_with("amidar", 0.0, start=10**6)) for _ in range(2))
    left, _ = change(one, data)
    right, _ = change(two, other)
    torch.testing.assert_close(left, right)


def test_sum_keeps_the_target_s_share_and_mean_dilutes_it():
    """With weight 0 on the cross task: sum is the target's own gradient, mean half of it in a half-and-half batch."""
    data = [0, 0, 1, 1]
    updates = {}
    for reduction in ("sum", "mean"):
        one = learner(task_weights=weights_with("amidar", 0.0, start=10**6), reduction=reduction)
        updates[reduction], _ = change(one, batch(data))
    torch.testing.assert_close(updates["mean"], 0.5 * updates["sum"], rtol=1e-3, atol=1e-7)


def test_nan_stops_before_the_weights_are_touched():
    one, data = learner(), batch([0, 1])
    data["value_target"][0, 0] = float("nan")
    before = copy.deepcopy(one.loss.world_model.state_dict())
    with pytest.raises(NonFiniteLoss, match="loss is nan, gradient norm .* at training step 0") as caught:
        one.step(data)
    assert "value_target" in caught.value.batch.keys()
    after = one.loss.world_model.state_dict()
    for key, value in before.items():
        if "running" not in key and "num_batches" not in key:
            assert torch.equal(value, after[key]), key


def test_gradient_norm_is_bounded():
    one = learner(max_grad_norm=1e-3, lr=1.0)
    update, metrics = change(one, batch([0, 0, 1, 1]))
    assert metrics["train/grad_norm"] > 1e-3
    assert update.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_frozen_component_does_not_move():
    torch.manual_seed(0)
    model = make_world_model(**SIZES)
    freeze_components(model, ["representation"])
    one = Learner(
        MuZeroLoss(model), make_optimizer(model, lr=0.1), tasks=["alien"], frame_stack=F, augmentation=False
    )
    before = copy.deepcopy(model.state_dict())
    one.step(batch([0, 0, 0]))
    one.step(batch([0, 0, 0], seed=1))
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("representation"))
    assert any(not torch.equal(after[key], before[key]) for key in before if key.startswith("dynamics"))


@pytest.mark.parametrize("weights", [{}, {"pong": 0.0}, {"amidar": -1.0}, {"amidar": float("nan")}])
def test_weights_of_other_tasks_and_negative_ones_are_refused(weights):
    class Rule(TaskWeighting):
        weights = property(lambda self: weights_given)

    weights_given = weights
    with pytest.raises(ValueError, match=r"the task weights are .*expected one of at least 0 .*\(amidar\)"):
        learner(task_weights=Rule(["amidar"])).weights()


def test_target_and_task_weights_are_stepped_with_the_learner():
    torch.manual_seed(0)
    model = make_world_model(**SIZES)
    target = LaggingTarget(model, interval=1, lag=False)
    scheduler = TaskWeightScheduler(["amidar"], start=0, cycle=2, window=1)
    one = Learner(
        MuZeroLoss(model), make_optimizer(model, lr=0.1), tasks=["alien", "amidar"], target=target,
        task_weights=scheduler, frame_stack=F,
    )  # fmt: skip
    one.step(batch([0, 0, 1, 1]))
    assert scheduler.steps == target.steps == one.steps == 1
    for ours, theirs in zip(model.state_dict().values(), target.module.state_dict().values()):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("opposed", "weight"), [(True, 0.0), (False, 1.0)])
def test_a_cross_task_s_weight_comes_from_its_gradient(opposed, weight):
    """1 where it agrees with the target's in all steps of the window, 0 where it opposes it."""
    scheduler = weights_with("amidar", 0.5, start=0, cycle=2, window=1)
    one = learner(task_weights=scheduler)
    cosine = one.step(twins(opposed))["grad_cos/amidar"]
    assert (cosine < 0) == opposed
    assert scheduler.weights["amidar"] == weight


def test_an_absent_cross_task_is_not_taken_for_one_without_agreement():
    scheduler = weights_with("amidar", 0.5, start=0, cycle=2, window=1)
    metrics = learner(task_weights=scheduler).step(batch([0, 0]))
    assert "grad_cos/amidar" not in metrics
    assert scheduler.weights["amidar"] == 0.5


def twins(opposed):
    """Three positions of each of two tasks, the same ones, of opposite worth or of the same."""
    data = batch([0, 0, 0, 1, 1, 1])
    data = torch.cat([data[:3], data[:3]])
    data["task_id"] = torch.tensor([0, 0, 0, 1, 1, 1])
    if opposed:
        data["value_target"][:3], data["value_target"][3:] = 3.0, -3.0
        data["reward_target"][:3], data["reward_target"][3:] = 2.0, -2.0
        data["policy_target"][:3], data["policy_target"][3:] = torch.eye(A)[0], torch.eye(A)[1]
        data["consistency_mask"][:] = False
    return data


def test_learning_rate_follows_the_published_schedule():
    # Linear from 0 over 1,000 steps, then 0.2, a tenth of it from step 101,000 on.
    rates = {step: 0.2 * warmup_factor(step, warmup_steps=1000) for step in (0, 500, 1000, 100_999, 101_000)}
    assert rates == pytest.approx({0: 0.0, 500: 0.1, 1000: 0.2, 100_999: 0.2, 101_000: 0.02})
    one = learner(lr=0.4, lr_factor=lambda step: [0.0, 0.5][step])
    still, metrics = change(one, batch([0, 1]))
    assert still.abs().max() == 0
    assert metrics["train/lr"] == 0
    assert one.step(batch([0, 1]))["train/lr"] == pytest.approx(0.2)


def test_state_continues_exactly():
    generator = torch.Generator().manual_seed(3)
    first = learner(
        augmentation=True, generator=generator, task_weights=TaskWeightScheduler(["amidar"], start=0)
    )
    first.step(batch([0, 0, 1, 1]))
    state = copy.deepcopy(first.state_dict())
    second = learner(
        seed=9,
        augmentation=True,
        generator=torch.Generator(),
        task_weights=TaskWeightScheduler(["amidar"], start=0),
    )
    second.load_state_dict(state)
    for seed in (1, 2):
        first.step(batch([0, 0, 1, 1], seed))
        second.step(batch([0, 0, 1, 1], seed))
    for a, b in zip(
        first.loss.world_model.state_dict().values(), second.loss.world_model.state_dict().values()
    ):
        assert torch.equal(a, b)


def test_schedules_at_their_corners():
    assert [piecewise(step, {0: 1.0, 10: 0.5}) for step in (0, 9, 10, 99)] == [1.0, 1.0, 0.5, 0.5]
    assert [linear(step, 0.4, 1.0, 10) for step in (0, 5, 10, 20)] == pytest.approx([0.4, 0.7, 1.0, 1.0])
    assert warmup_factor(15, warmup_steps=10, decay="cosine", decay_steps=10) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("options", "message"), [({"lr": 0.0}, "lr is 0.0"), ({"name": "adam"}, "optimiser name is 'adam'")]
)
def test_bad_optimiser_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(torch.nn.Linear(1, 1), **options)


def bad_batch(field, value):
    spoilt = batch([0, 1], seed=5)
    spoilt[field][0] = value
    return spoilt


def state_of(one):
    return {key: value.clone() for key, value in one.loss.world_model.state_dict().items()}


@pytest.mark.parametrize("measuring", [False, True])
@pytest.mark.parametrize(
    ("field", "value"), [("value_target", float("nan")), ("reward_target", float("nan"))]
)
def test_a_bad_batch_moves_neither_weights_nor_statistics(field, value, measuring):
    scheduler = TaskWeightScheduler(["amidar"], start=0 if measuring else 10**6)
    one = learner(task_weights=scheduler)
    one.step(batch([0, 1]))
    before, counted = state_of(one), scheduler.state_dict()
    with pytest.raises(NonFiniteLoss, match="loss is nan.* at training step 1") as caught:
        one.step(bad_batch(field, value))
    assert caught.value.batch[field].isnan().any()
    for key, expected in before.items():
        assert torch.equal(state_of(one)[key], expected), key
    assert scheduler.state_dict() == counted


def test_statistics_survive_activations_that_are_not_finite():
    """The forward pass has written NaN into the running means before anybody looks at the loss."""
    one = learner()
    one.step(batch([0, 1]))
    weight = one.loss.world_model.representation.stem[0].weight
    before = state_of(one)
    with torch.no_grad():
        weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteLoss):
        one.step(batch([0, 1]))
    for key, expected in before.items():
        if "running" in key:
            assert torch.equal(state_of(one)[key], expected), key


def test_exploding_loss_is_a_loss_beyond_the_limit():
    fine = learner(max_loss=100.0)
    fine.step(batch([0, 1]))
    with pytest.raises(NonFiniteLoss, match=r"loss is .* \(limit 0.001\)"):
        learner(max_loss=0.001).step(batch([0, 1]))


def test_bad_batches_are_left_out_up_to_the_limit():
    one, reported = learner(max_skipped=2), []
    one.on_skip = reported.append
    for _ in range(2):
        spoilt = bad_batch("value_target", float("nan"))
        before = state_of(one)
        metrics = one.step(spoilt)
        assert all(torch.equal(state_of(one)[key], value) for key, value in before.items())
        assert torch.equal(spoilt["td_error"], torch.ones(2))
        one.step(batch([0, 1]))
    assert [str(error).rpartition("; ")[2] for error in reported] == [
        "left out, 1 of 2",
        "left out, 2 of 2",
    ]
    assert metrics["train/skipped"] == 2
    assert one.steps == 4
    other = learner(max_skipped=2)
    other.load_state_dict(one.state_dict())
    with pytest.raises(NonFiniteLoss, match="after 2 batches that were left out"):
        other.step(bad_batch("value_target", float("nan")))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_networks_learn_the_same():
    plain, compiled = learner(), learner()
    for module in compiled.loss.world_model.components().values():
        module.compile(dynamic=False)
    for seed in range(3):
        expected, found = (each.step(batch([0, 0, 1, 1], seed)) for each in (plain, compiled))
        # Four samples in a BatchNorm make much of the last digits.
        tolerance = 1e-2 if seed else 1e-5
        assert float(found["loss/total"]) == pytest.approx(float(expected["loss/total"]), rel=tolerance)


def test_a_rule_for_combining_gradients_is_obeyed():
    """A rule that gives each gradient a factor takes the step of those weights; every step is measured."""

    class Halve(TaskWeighting):
        def combine(self, coefficients, gram):
            assert gram.shape == (2, 2)
            return coefficients * torch.tensor([1.0, 0.5])

    data = [0, 0, 1, 1]
    ruled, metrics = change(learner(task_weights=Halve(["amidar"])), batch(data))
    weighted, _ = change(learner(task_weights=weights_with("amidar", 0.5, start=10**6)), batch(data))
    torch.testing.assert_close(ruled, weighted, rtol=1e-4, atol=1e-7)
    assert -1 <= float(metrics["grad_cos/amidar"]) <= 1


def test_pcgrad_steps_along_a_gradient_that_opposes_no_task():
    one = learner(task_weights=PCGrad(["amidar"]), max_grad_norm=1e9)
    data = twins(opposed=True)
    same = data.clone()
    one._prepare(same)
    losses, _ = one.loss.task_losses(same, 2)
    first, second = (
        torch.cat([g.flatten() for g in each]) for each in task_gradients(losses, one.parameters)
    )
    assert first @ second < 0
    one.step(data)
    stepped = torch.cat([p.grad.flatten() for p in one.parameters])
    projected = first - (first @ second) / (second @ second) * second
    projected = projected + second - (first @ second) / (first @ first) * first
    torch.testing.assert_close(stepped, projected, rtol=1e-3, atol=1e-5)
    assert min(stepped @ first, stepped @ second) > 0
