"""Copying and freezing parts of a world model."""

from __future__ import annotations

import pytest
import torch

from xtra_rl.models import make_world_model
from xtra_rl.transfer import freeze_components, transfer_components
from xtra_rl.transfer.hook import TaskWeightSchedulerHook
from xtra_rl.transfer.task_weights import TaskWeightScheduler

SIZES = {
    "image_size": 16, "image_channels": 1, "num_actions": 4, "channels": 4, "downsample": 4, "lstm_hidden": 8,
    "support_size": 5, "projection_hidden": 8, "projection_out": 8, "predictor_hidden": 4,
}  # fmt: skip


def model(seed, **overrides):
    torch.manual_seed(seed)
    built = make_world_model(**(SIZES | overrides))
    for buffer in built.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return built


def same(left, right):
    return all(
        torch.equal(a, b)
        for a, b in zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    )


def test_named_components_are_copied_with_their_batchnorm_statistics_and_the_others_are_not():
    source, target = model(0), model(1)
    before = {key: value.clone() for key, value in target.state_dict().items()}
    report = transfer_components(source, target, ["representation", "dynamics"])
    assert same(source.representation, target.representation)
    assert same(source.dynamics, target.dynamics)
    for key, value in target.state_dict().items():
        if key.startswith(("prediction", "projection")):
            assert torch.equal(value, before[key]), key
    text = str(report)
    assert [line.split()[:2] for line in text.splitlines()[1:]] == [
        ["representation", "copied"],
        ["dynamics", "copied"],
        ["prediction", "initialised"],
        ["projection", "initialised"],
    ]


def test_model_of_another_size_is_refused_and_nothing_is_copied():
    source, target = model(0, lstm_hidden=12), model(1)
    before = target.representation.state_dict()["stem.0.weight"].clone()
    with pytest.raises(
        ValueError, match=r"dynamics of the pretrained model differs.*lstm.*\(48, .*leave 'dynamics' out"
    ):
        transfer_components(source, target)
    assert torch.equal(before, target.representation.state_dict()["stem.0.weight"])


def test_unknown_component_is_named():
    with pytest.raises(ValueError, match="transfer names 'encoder'"):
        transfer_components(model(0), model(1), ["encoder"])
    with pytest.raises(ValueError, match="freeze names 'encoder'"):
        freeze_components(model(0), ["encoder"])


def test_frozen_component_keeps_weights_and_statistics_in_training_mode():
    net = model(0)
    freeze_components(net, ["representation"])
    net.train()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    net.predict(net.represent(torch.rand(3, 4, 16, 16)))
    assert not any(p.requires_grad for p in net.representation.parameters())
    after = net.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("representation"))
    assert any(not torch.equal(after[key], before[key]) for key in before if key.startswith("prediction"))
    freeze_components(net, [])
    assert all(p.requires_grad for p in net.parameters())
    assert net.representation.training


def test_hook_steps_and_logs_the_scheduler_at_the_trainer_s_stages():
    registered = {}

    class Stages:
        def register_op(self, stage, op):
            registered[stage] = op

        def register_module(self, name, module):
            registered[name] = module

    scheduler = TaskWeightScheduler(["phoenix"], start=0, cycle=2, window=1)
    TaskWeightSchedulerHook(scheduler).register(Stages())
    scheduler.observe({"phoenix": 0.0})
    registered["post_optim"]()
    assert registered["post_optim_log"](None)["task_weight/phoenix"] == 0.0
    assert registered["task_weights"].state_dict()["steps"] == 1


def test_a_student_without_a_component_is_told_which():
    source, target = model(0), model(1)
    components = {name: part for name, part in source.components().items() if name != "projection"}
    source.components = lambda: components
    with pytest.raises(ValueError, match="the pretrained model has no projection; leave 'projection' out"):
        transfer_components(source, target)
