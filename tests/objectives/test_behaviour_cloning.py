"""Behaviour cloning: its loss, its targets, and that it learns through the learner of every other stage."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer, even_quotas
from xtra_rl.models import PriorPolicy, make_world_model
from xtra_rl.objectives import BehaviourCloningLoss
from xtra_rl.targets import BehaviourTargets
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.schedules import make_optimizer

A, F, SIDE = 5, 2, 24
SIZES = {
    "image_size": SIDE, "image_channels": 1, "frame_stack": F, "num_actions": A, "channels": 8, "downsample": 8,
    "lstm_hidden": 8, "support_size": 5, "projection_hidden": 8, "projection_out": 8, "predictor_hidden": 4,
    "prediction_blocks": 0, "head_hidden": 16,
}  # fmt: skip
MASKS = {"one": (0, 1, 2, 3), "two": (0, 2, 3, 4)}


def mask_of(*legal):
    mask = torch.zeros(A, dtype=torch.bool)
    mask[list(legal)] = True
    return mask


class Logits(torch.nn.Module):
    """A world model whose policy logits are its observation."""

    def represent(self, observation):
        return observation

    def predict(self, latent):
        return latent, latent


def loss_of(logits, action, mask, **entries):
    """Loss and its outputs for given logits; the gradient of the logits is ``batch["observation"].grad``."""
    options = {key: entries.pop(key) for key in ("reduction",) if key in entries}
    observation = torch.as_tensor(logits, dtype=torch.float32).requires_grad_()
    batch = TensorDict(
        {"observation": observation, "action": torch.tensor(action), "action_mask": mask}
        | {key: torch.tensor(value) for key, value in entries.items()},
        batch_size=[len(observation)],
    )
    loss = BehaviourCloningLoss(Logits(), **options)
    return SimpleNamespace(batch=batch, loss=loss, out=loss(batch), grad=lambda: observation.grad)


def random_case(size=12):
    mask = torch.rand(size, A) < 0.5
    action = torch.randint(A, (size,))
    mask[torch.arange(size), action] = True
    return torch.randn(size, A), action.tolist(), mask


def test_loss_by_hand():
    """Legal weights 1, 2, 5 (and an illegal 100): the data's action has 2/8, so the loss is log 4."""
    logits = [[math.log(1), math.log(2), math.log(100), math.log(5), -1.0]]
    case = loss_of(logits, [1], mask_of(0, 1, 3)[None])
    assert case.out["loss_policy"].item() == pytest.approx(math.log(4), rel=1e-6)
    entropy = math.log(8) - (2 * math.log(2) + 5 * math.log(5)) / 8
    assert case.out["policy_entropy"].item() == pytest.approx(entropy, rel=1e-6)
    assert case.out["accuracy"] == 0.0
    case.out["loss_policy"].backward()
    # softmax - one-hot over the legal actions; nothing elsewhere.
    torch.testing.assert_close(case.grad(), torch.tensor([[1 / 8, 2 / 8 - 1, 0.0, 5 / 8, 0.0]]))


def test_loss_is_the_cross_entropy_over_the_legal_logits_alone():
    """The oracle deletes the illegal columns of each sample instead of masking them."""
    logits, action, mask = random_case()
    case = loss_of(logits, action, mask)
    expected = []
    for row, taken, legal in zip(logits, action, mask):
        place = int(legal[:taken].sum())
        expected.append(torch.nn.functional.cross_entropy(row[legal][None], torch.tensor([place])))
    torch.testing.assert_close(case.out["loss_policy"], torch.stack(expected).mean())
    torch.testing.assert_close(case.batch["sample_loss", "policy"], torch.stack(expected))
    torch.testing.assert_close(case.batch["td_error"], torch.stack(expected) + 1e-6)


def test_illegal_logits_get_no_gradient_and_carry_no_mass():
    logits, action, mask = random_case()
    case = loss_of(logits, action, mask)
    case.out["loss_policy"].backward()
    assert (case.grad()[~mask] == 0).all()
    changed = torch.where(mask, logits, logits + 1000.0)
    torch.testing.assert_close(loss_of(changed, action, mask).out["loss_policy"], case.out["loss_policy"])


def test_samples_without_an_action_count_for_nothing_even_if_their_filler_is_illegal():
    logits, mask = torch.zeros(2, A), torch.stack([mask_of(0, 1), mask_of(2, 3)])
    case = loss_of(logits, [0, 4], mask, policy_mask=[True, False], reduction="sum")
    assert case.out["loss_policy"].item() == pytest.approx(math.log(2), rel=1e-6)
    assert case.out["accuracy"] == 1.0
    assert case.out["policy_entropy"].item() == pytest.approx(math.log(2), rel=1e-6)
    case.out["loss_policy"].backward()
    assert (case.grad()[1] == 0).all()
    assert case.grad().isfinite().all()


def test_an_illegal_action_that_counts_has_an_infinite_loss():
    assert loss_of(torch.zeros(1, A), [4], mask_of(0, 1)[None]).out["loss_policy"] == math.inf


def test_weights_of_priority_and_task_multiply_each_sample():
    logits, action, mask = random_case(3)
    plain = loss_of(logits, action, mask, reduction="none").out["loss_policy"]
    weights = {"priority_weight": [1.0, 0.5, 2.0], "task_weight": [3.0, 1.0, 0.0]}
    weighted = loss_of(logits, action, mask, reduction="none", **weights).out["loss_policy"]
    torch.testing.assert_close(weighted, plain * torch.tensor([3.0, 0.5, 0.0]))


def test_task_losses_are_means_over_each_task_and_add_up_to_the_whole():
    logits, action, mask = random_case(6)
    case = loss_of(logits, action, mask, task_id=[0, 0, 2, 2, 2, 2], task_weight=[7.0] * 6)
    losses, logs = case.loss.task_losses(case.batch, 3)
    each = case.batch["sample_loss", "policy"]
    torch.testing.assert_close(
        losses.detach(), torch.stack([each[:2].mean(), each[:0].sum(), each[2:].mean()])
    )
    torch.testing.assert_close(7 * (2 * losses[0] + 4 * losses[2]) / 6, case.out["loss_policy"])
    assert not logs["loss_policy"].requires_grad


def test_dynamics_projection_and_value_head_are_not_trained():
    model = make_world_model(**SIZES)
    batch = TensorDict(
        {
            "observation": torch.rand(4, F, SIDE, SIDE),
            "action": torch.zeros(4, dtype=torch.int64),
            "action_mask": mask_of(0, 1).expand(4, A),
        },
        batch_size=[4],
    )
    BehaviourCloningLoss(model)(batch)["loss_policy"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.split(".")[0] for name in trained} == {"representation", "prediction"}
    assert not any(name.startswith("prediction.value") for name in trained)


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction is 'max'"):
        BehaviourCloningLoss(Logits(), reduction="max")


def test_keys_can_be_renamed_and_nested():
    case = loss_of(torch.zeros(1, A), [0], mask_of(0, 1)[None])
    case.batch["data", "action"] = case.batch.pop("action")
    case.loss.set_keys(action=("data", "action"))
    assert case.loss.in_keys[1] == ("data", "action")
    torch.testing.assert_close(case.loss(case.batch)["loss_policy"], torch.tensor(math.log(2)))


def frames_showing(action):
    """``[T, 1, 24, 24]``: a bright square in the corner (or the middle) that stands for the action."""
    corner = torch.tensor([[0, 0], [0, 16], [16, 0], [16, 16], [8, 8]])[action]
    frames = torch.randint(0, 40, (len(action), 1, SIDE, SIDE), dtype=torch.uint8)
    for frame, (row, column) in zip(frames, corner.tolist()):
        frame[0, row : row + 8, column : column + 8] = 220
    return frames


def buffer_of(legal, *, episodes=8, length=30):
    """Replay of a task where the action is a function of the frame; the last row has an illegal action."""
    buffer = TrajectoryReplayBuffer(episodes * (length + 1), num_actions=A, alpha=0.0, memmap=False)
    for _ in range(episodes):
        action = torch.tensor(legal)[torch.randint(len(legal), (length + 1,))]
        pixels = frames_showing(action)
        action[-1] = (set(range(A)) - set(legal)).pop()
        buffer.extend_trajectory(
            TensorDict({"pixels": pixels, "action": action, "reward": torch.zeros(length + 1)}, [length + 1])
        )
    return buffer


def source_of(tasks, *, batch_size=32, frame_stack=F):
    buffers = {task: buffer_of(MASKS[task]) for task in tasks}
    targets = {task: BehaviourTargets(mask_of(*MASKS[task]), frame_stack=frame_stack) for task in tasks}
    return BatchSource(MultiTaskReplayBuffer(buffers, even_quotas(list(tasks), batch_size)), targets)


def test_last_rows_are_never_trained_on():
    """All 240 transitions are drawn, and none of the 8 final observations, whose stored action is illegal."""
    source = source_of(["one"], batch_size=240)
    batch = source.sample()
    rows = set(batch["index"].tolist())
    assert len(rows) == 240
    assert rows.isdisjoint(range(30, 248, 31))
    assert batch["policy_mask"].all()
    assert batch["action_mask"].gather(1, batch["action"][:, None]).all()
    assert batch["pixels"].shape == (240, F, 1, SIDE, SIDE)
    # The newest frame of each stack is the one that its action was taken in.
    shown = [frame[-1, 0, r : r + 8, c : c + 8] for frame, (r, c) in zip(batch["pixels"], _corners(batch))]
    assert (torch.stack(shown) == 220).all()


def _corners(batch):
    return torch.tensor([[0, 0], [0, 16], [16, 0], [16, 16], [8, 8]])[batch["action"]].tolist()


def test_data_with_an_illegal_action_is_refused_with_the_legal_ones():
    source = source_of(["one"])
    source.targets = {"one": BehaviourTargets(mask_of(2, 3), frame_stack=F)}
    with pytest.raises(ValueError, match=r"holds action [01], but the legal actions are \[2, 3\]"):
        source.sample()


@pytest.mark.parametrize("mask", [torch.ones(A), torch.zeros(A, dtype=torch.bool), mask_of(0)[None]])
def test_targets_refuse_what_is_no_action_mask(mask):
    with pytest.raises(ValueError, match="expected a vector of bools"):
        BehaviourTargets(mask)


@pytest.mark.parametrize("augmentation", [False, True])
def test_two_tasks_are_learnt_to_more_than_95_percent(augmentation):
    """The action is where the square is; half of each task's actions are drawn from its own set."""
    source = source_of(MASKS)
    model = make_world_model(**SIZES)
    learner = Learner(
        BehaviourCloningLoss(model), make_optimizer(model, name="adamw", lr=3e-3), tasks=list(MASKS),
        reduction="mean", frame_stack=F, augmentation=augmentation, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for _ in range(80):
        batch = source.sample()
        metrics = learner.step(batch)
        source.update_priority(batch)
    assert metrics["train/accuracy"] > 0.95
    assert {"loss/one/policy", "loss/two/policy", "loss/total"} <= set(metrics)
    for legal in MASKS.values():
        action = torch.tensor(legal)[torch.randint(len(legal), (200,))]
        unseen = frames_showing(action).expand(-1, F, -1, -1)
        data = TensorDict({"observation": unseen, "action_mask": mask_of(*legal).expand(200, A)}, [200])
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            assert (PriorPolicy(model)(data)["action"] == action).float().mean() > 0.95


def test_learner_weighs_tasks_and_measures_nothing_without_a_scheduler():
    """A batch of windows without frames behind the root needs no next observation."""
    source, model = source_of(["one"]), make_world_model(**SIZES)
    batch = source.sample()
    Learner(
        BehaviourCloningLoss(model), make_optimizer(model, lr=0.1), tasks=["one"], frame_stack=F
    ).step(batch)  # fmt: skip
    assert batch["observation"].shape == (32, F, SIDE, SIDE)
    assert "next_observation" not in batch
