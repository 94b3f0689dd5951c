"""Priorities, TorchRL's interface, snapshots and refusals of the replay buffer."""

from __future__ import annotations

import gc
import random
from pathlib import Path

import pytest
import torch
from replay_reference import (
    NUM_ACTIONS,
    SlowReplay,
    check_all_windows,
    golden_buffer,
    make_rows,
    play,
    window_of,
)
from tensordict import TensorDict

from xtra_rl.data import TrajectoryReplayBuffer


def test_new_rows_get_the_largest_priority_seen_so_far():
    buffer = TrajectoryReplayBuffer(20, num_actions=NUM_ACTIONS, alpha=1.0, memmap=False)
    buffer.extend_trajectory(make_rows([0, 1, 2]))
    assert buffer._sampler._priority[:3].tolist() == [1.0, 1.0, 0.0]
    buffer.update_priority(torch.tensor([0]), torch.tensor([7.0]))
    buffer.update_priority(torch.tensor([0]), torch.tensor([2.0]))
    buffer.extend_trajectory(make_rows([5, 6]))
    assert buffer._sampler._priority[:5].tolist() == [2.0, 1.0, 0.0, 7.0, 0.0]


def test_priority_of_a_final_row_cannot_make_it_drawable():
    buffer = golden_buffer("terminated")
    buffer.update_priority(torch.tensor([3, 6]), torch.tensor([100.0, 100.0]))
    assert buffer.num_transitions == 5
    assert buffer._sampler.default_priority == 1.0


def test_update_tensordict_priority_reaches_the_sampler():
    buffer = golden_buffer("terminated")
    windows = buffer.sample_windows(3, unroll_steps=1, bootstrap_steps=1, frame_stack=1)
    windows["td_error"] = torch.tensor([3.0, 4.0, 5.0])
    buffer.update_tensordict_priority(windows)
    assert buffer._sampler._priority[windows["index"]].tolist() == [3.0, 4.0, 5.0]


def test_reused_memory_gives_the_same_batches_and_is_opt_in():
    options = {"unroll_steps": 2, "bootstrap_steps": 3, "frame_stack": 4}
    batches = {}
    for reuse in (False, True):
        buffer = TrajectoryReplayBuffer(50, num_actions=3, memmap=False, reuse_memory=reuse)
        buffer.extend_trajectory(make_rows(range(50)))
        first, _, third = (buffer.sample_windows(size, **options)["pixels"] for size in (8, 3, 8))
        batches[reuse] = third
        assert (first.data_ptr() == third.data_ptr()) == reuse
        assert torch.equal(first, third) == reuse
    assert torch.equal(batches[False], batches[True])


def test_torchrl_extend_and_sample_work():
    buffer = TrajectoryReplayBuffer(20, num_envs=2, num_actions=NUM_ACTIONS, memmap=False)
    buffer.extend(make_rows([0, 1, 2, 3]).set("env_index", torch.tensor([0, 1, 0, 1])))
    assert sorted(buffer.sample(2)["reward"].tolist()) == [0.5, 1.5]
    with pytest.raises(ValueError, match="env_index is missing"):
        buffer.extend(make_rows([4]))


def test_snapshot_continues_identically(tmp_path):
    def build():
        return TrajectoryReplayBuffer(60, num_envs=2, num_actions=NUM_ACTIONS, scratch_dir=None, seed=5)

    buffer, slow = build(), SlowReplay(2, 30)
    play(buffer, slow, random.Random(2), 40)
    options = {"unroll_steps": 2, "bootstrap_steps": 3, "frame_stack": 4}
    drawn = buffer.sample_windows(8, **options)
    buffer.update_priority(drawn["index"], torch.rand(8) * 5)
    buffer.set_beta(0.7)
    buffer.dumps(tmp_path / "snapshot")
    state = buffer.state_dict()
    from_disk, from_state = build(), build()
    from_disk.loads(tmp_path / "snapshot")
    from_state.load_state_dict(state)
    for _ in range(3):
        expected = buffer.sample_windows(8, **options)
        for other in (from_disk, from_state):
            got = other.sample_windows(8, **options)
            for key, value in expected.items():
                assert torch.equal(got[key], value), key
    check_all_windows(from_disk, slow, 2, 3, 4, True)
    # The snapshot also knows where each trajectory stands: all take the same next rows.
    final = buffer._writer._ended
    rows = make_rows([900, 901], has_action=~final)
    places = [each.append(rows, torch.tensor([0, 1])).tolist() for each in (buffer, from_disk, from_state)]
    assert places[0] == places[1] == places[2]
    steps = [each._rows["step"][places[0]].tolist() for each in (buffer, from_disk, from_state)]
    assert steps[0] == steps[1] == steps[2]


def test_snapshot_of_another_shape_is_refused(tmp_path):
    golden_buffer("terminated").dumps(tmp_path)
    with pytest.raises(ValueError, match="num_envs=1 columns of 20 rows"):
        TrajectoryReplayBuffer(20, num_envs=2, memmap=False).loads(tmp_path)
    with pytest.raises(ValueError, match="no replay buffer was saved"):
        TrajectoryReplayBuffer(20, memmap=False).loads(tmp_path / "nothing")


@pytest.mark.parametrize("way", ["loads", "load_state_dict"])
@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (
            {"search_policy": None, "search_value": None},
            r": \[\] only there, .* 'search_value \[\] torch.float32'\] only here",
        ),
        ({"teacher_value": torch.ones(3)}, r"\['teacher_value \[\] torch.float32'\] only there, \[\]"),
        (
            {"pixels": torch.zeros(3, 1, 2, 3, dtype=torch.uint8)},
            r"'pixels \[1, 2, 3\] torch.uint8'.*'pixels \[1, 2, 2\] ",
        ),
        ({"pixels": torch.zeros(3, 1, 2, 2)}, r"pixels \[1, 2, 2\] torch.float32"),
    ],
)
def test_rows_of_other_columns_are_not_loaded_over_those_of_a_buffer(tmp_path, way, stored, message):
    """What the state does not have would stay the old game's."""
    rows = make_rows([7, 8, 9]).exclude(*[name for name, value in stored.items() if value is None])
    other = TrajectoryReplayBuffer(20, num_actions=NUM_ACTIONS, memmap=False)
    other.extend_trajectory(rows.update({name: value for name, value in stored.items() if value is not None}))
    buffer = golden_buffer("terminated")
    before = buffer.state_dict()
    other.dumps(tmp_path)
    with pytest.raises(ValueError, match=message):
        getattr(buffer, way)(tmp_path if way == "loads" else other.state_dict())
    after = buffer.state_dict()
    for part in ("rows", "writer"):
        assert all(torch.equal(after[part][name], value) for name, value in before[part].items())
    assert buffer.num_transitions == 5


def test_temporary_folder_goes_with_the_buffer_and_a_given_one_is_locked(tmp_path):
    buffer = TrajectoryReplayBuffer(10)
    buffer.extend_trajectory(make_rows([0, 1]))
    folder = Path(buffer._temporary.name)
    assert any(folder.iterdir())
    del buffer
    gc.collect()
    assert not folder.exists()

    first = TrajectoryReplayBuffer(10, scratch_dir=tmp_path)
    first.extend_trajectory(make_rows([0, 1]))
    with pytest.raises(ValueError, match="already in use by another replay buffer"):
        TrajectoryReplayBuffer(10, scratch_dir=tmp_path)
    del first
    gc.collect()
    # The rest of a killed run does not stand in the way of the next.
    second = TrajectoryReplayBuffer(30, scratch_dir=tmp_path, num_actions=NUM_ACTIONS)
    second.extend_trajectory(make_rows([7, 8, 9]))
    assert window_of(second, 0)["reward"].tolist() == [7.5, 8.5, 0.0, 0.0]


@pytest.mark.parametrize("reuse", [False, True])
def test_states_that_are_no_pictures_keep_their_digits(reuse):
    buffer = TrajectoryReplayBuffer(10, memmap=False, reuse_memory=reuse, num_actions=NUM_ACTIONS)
    states = torch.randn(6, 4, 1, 1)
    buffer.extend_trajectory(make_rows(range(6)).set("pixels", states))
    windows = buffer.sample_windows(5, unroll_steps=0, bootstrap_steps=0, frame_stack=1)
    assert torch.equal(windows["pixels"][:, 0], states[windows["index"]])


def test_floats_do_not_become_bytes():
    buffer = TrajectoryReplayBuffer(10, memmap=False)
    rows = make_rows([0, 1])
    buffer.append(rows, torch.zeros(2))
    with pytest.raises(ValueError, match="pixels is torch.float32, the buffer holds torch.uint8"):
        buffer.append(rows.set("pixels", rows["pixels"] / 255), torch.zeros(2))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (make_rows([1], step=[5]), "step=5 must be 3 to continue"),
        (make_rows([1]).exclude("reward"), r"lack \['reward'\]"),
        (make_rows([1]).set("lives", torch.ones(1)), r"extra \['lives'\]"),
        (make_rows([1]).set("pixels", torch.zeros(1, 3, 2, 2)), r"\(3, 2, 2\), the buffer holds \(1, 2, 2\)"),
    ],
)
def test_bad_rows_are_named(rows, message):
    buffer = TrajectoryReplayBuffer(10, memmap=False)
    buffer.append(make_rows([0, 1, 2]), torch.zeros(3))
    with pytest.raises(ValueError, match=message):
        buffer.append(rows, torch.tensor([0]))


def test_a_new_trajectory_cannot_swallow_the_final_row_of_the_last():
    buffer = TrajectoryReplayBuffer(10, memmap=False)
    buffer.append(make_rows([0], terminated=[True]), torch.tensor([0]))
    with pytest.raises(ValueError, match="must be its final observation"):
        buffer.append(make_rows([1], step=[0]), torch.tensor([0]))


def test_impossible_requests_are_named():
    buffer = TrajectoryReplayBuffer(4, memmap=False)
    options = {"unroll_steps": 1, "bootstrap_steps": 1, "frame_stack": 1}
    with pytest.raises(ValueError, match="empty buffer"):
        buffer.sample_windows(2, **options)
    with pytest.raises(ValueError, match="5 rows does not fit a column of 4"):
        buffer.extend_trajectory(make_rows(range(5)))
    with pytest.raises(ValueError, match="pass the trajectories one by one"):
        buffer.extend_trajectory(make_rows(range(4), terminated=[True, False, False, False]))
    with pytest.raises(ValueError, match="env_index="):
        buffer.append(make_rows([0]), torch.tensor([1]))
    with pytest.raises(ValueError, match="frame_stack=0"):
        buffer.sample_windows(2, **{**options, "frame_stack": 0})
    with pytest.raises(ValueError, match="capacity=3"):
        TrajectoryReplayBuffer(3, num_envs=2)


def rollout(**changes):
    """A game of four transitions, with what TorchRL or a slip would make of a key."""
    rows = {
        "pixels": torch.zeros(5, 1, 8, 8, dtype=torch.uint8),
        "action": torch.arange(5) % 3,
        "reward": torch.ones(5),
    }
    return TensorDict(rows | changes, [5])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward": torch.ones(5, 1)},
            r"reward has shape \[5, 1\], expected \[n\]; pass reward.squeeze\(-1\)",
        ),
        (
            {"action": torch.eye(5)[:, :3]},
            r"action has shape \[5, 3\], expected \[n\]; of one-hot actions pass argmax",
        ),
        ({"teacher_value": torch.ones(5, 2)}, r"teacher_value has shape \[5, 2\]"),
        ({"teacher_policy": torch.ones(5)}, r"teacher_policy has shape \[5\], expected \[n, A\]"),
        ({"pixels": torch.zeros(5, 8, 8)}, r"pixels has shape \[5, 8, 8\], expected \[n, C, H, W\]"),
        ({"action": torch.tensor([0, 1, 3, 0, 0])}, "action has 0 to 3, the buffer takes 0 to 2"),
        ({"action": torch.tensor([0, -1, 1, 0, 0])}, "action has -1 to 1"),
        (
            {"action": torch.tensor([0, 0.5, 1, 0, 0])},
            "action is torch.float32 with values that torch.int64 cannot",
        ),
        (
            {"pixels": torch.full((5, 1, 8, 8), 1000)},
            "pixels is torch.int64 with values that torch.uint8 cannot",
        ),
    ],
)
def test_rows_that_would_be_stored_as_something_else_are_refused(changes, message):
    buffer = TrajectoryReplayBuffer(20, num_actions=3, memmap=False)
    with pytest.raises(ValueError, match=message):
        buffer.extend_trajectory(rollout(**changes))
    assert len(buffer) == 0


def test_numbers_of_another_type_that_fit_are_taken():
    buffer = TrajectoryReplayBuffer(20, num_actions=3, memmap=False)
    filler = torch.tensor([0.0, 1.0, 2.0, 0.0, 99.0])  # of the final observation there is no action
    buffer.extend_trajectory(
        rollout(action=filler, reward=torch.ones(5, dtype=torch.float64), pixels=torch.ones(5, 1, 8, 8).int())
    )
    assert buffer.num_transitions == 4
