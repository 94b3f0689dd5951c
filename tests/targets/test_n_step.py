"""n-step transitions: rewards by hand, and what happens at each kind of ending."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from xtra_rl.data import TrajectoryReplayBuffer
from xtra_rl.targets import NStepTargets

A = 4


def buffer_of(length, **last):
    """One trajectory whose frame, action and reward are its step, and whose last transition has the flags ``last``."""
    buffer = TrajectoryReplayBuffer(100, num_actions=A, memmap=False)
    steps = torch.arange(length + 1)
    flags = {name: (steps == length - 1) & last.get(name, False) for name in ("terminated", "truncated")}
    rows = {
        "pixels": steps.to(torch.uint8).view(-1, 1, 1, 1),
        "action": steps % A,
        "reward": steps.float() - 2,
    }
    buffer.extend_trajectory(TensorDict(rows | flags, [length + 1]))
    return buffer


def targets_of(buffer, width=3, **options):
    targets = NStepTargets(
        torch.ones(A, dtype=torch.bool), td_steps=3, discount=0.5, frame_stack=2, **options
    )
    windows = buffer.sample_windows(
        buffer.num_transitions, unroll_steps=0, bootstrap_steps=width, frame_stack=2
    )
    batch = targets(windows.set("task_id", torch.zeros(len(windows), dtype=torch.int64)))
    return batch[batch["index"].argsort()]


@pytest.mark.parametrize("ending", ["terminated", "truncated", "running"])
def test_n_steps_stop_at_terminals_and_bootstrap_across_truncation(ending):
    """Rewards -2 .. 2 clipped to -1, -1, 0, 1, 1 at discount 1/2; five transitions, n = 3."""
    batch = targets_of(buffer_of(5, **{ending: True}))
    torch.testing.assert_close(batch["return"], torch.tensor([-1.5, -0.75, 0.75, 1.5, 1.0]))
    at_end = 0.0 if ending == "terminated" else 1.0
    expected = torch.tensor([0.125, 0.125, 0.125 * at_end, 0.25 * at_end, 0.5 * at_end])
    torch.testing.assert_close(batch["bootstrap_discount"], expected)
    # Stacks of two frames: where the n steps end, or the trajectory.
    assert batch["bootstrap_observation"].flatten(1).tolist() == [[2, 3], [3, 4], [4, 5], [4, 5], [4, 5]]
    assert batch["pixels"].flatten(1).tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [3, 4]]
    assert batch["action"].tolist() == [0, 1, 2, 3, 0]


def test_wider_windows_change_nothing_and_narrower_ones_are_refused():
    """A batch source gives every task windows for the longest returns of all."""
    buffer = buffer_of(5, terminated=True)
    assert (targets_of(buffer, width=5) == targets_of(buffer)).all()
    with pytest.raises(ValueError, match="have 2 transitions; expected td_steps=3"):
        targets_of(buffer, width=2)


def test_rewards_can_be_learnt_as_they_are():
    batch = targets_of(buffer_of(5), clip_rewards=False)
    torch.testing.assert_close(batch["return"], torch.tensor([-2.5, -0.75, 1.0, 2.0, 2.0]))


def test_data_of_another_game_is_refused():
    buffer = buffer_of(5)
    windows = buffer.sample_windows(5, unroll_steps=0, bootstrap_steps=2, frame_stack=2)
    targets = NStepTargets(torch.tensor([True, True, False, False]), td_steps=2, frame_stack=2)
    with pytest.raises(ValueError, match=r"holds action [23], but the legal actions are \[0, 1\]"):
        targets(windows.set("task_id", torch.zeros(5, dtype=torch.int64)))


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="td_steps is 0"):
        NStepTargets(torch.ones(A, dtype=torch.bool), td_steps=0)
    with pytest.raises(ValueError, match="expected a vector of bools"):
        NStepTargets(torch.ones(A))
