"""Replay windows against a slow reference, and cases worked by hand."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from replay_reference import (
    NUM_ACTIONS,
    SlowReplay,
    check_all_windows,
    golden_buffer,
    make_rows,
    play,
    window_of,
)

from xtra_rl.data import TrajectoryReplayBuffer
from xtra_rl.data.windows import stack_frames


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_envs=st.integers(1, 3),
    ring_size=st.integers(2, 12),
    unroll=st.integers(0, 3),
    bootstrap=st.integers(0, 4),
    frame_stack=st.integers(1, 4),
    bootstrap_pixels=st.booleans(),
)
def test_windows_equal_slow_reference(
    seed, num_envs, ring_size, unroll, bootstrap, frame_stack, bootstrap_pixels
):
    rng = random.Random(seed)
    buffer = TrajectoryReplayBuffer(
        num_envs * ring_size, num_envs=num_envs, num_actions=NUM_ACTIONS, memmap=False, seed=seed
    )
    slow = SlowReplay(num_envs, ring_size)
    play(buffer, slow, rng, rng.randint(1, 12), end=rng.choice([0.05, 0.3]))
    check_all_windows(buffer, slow, unroll, bootstrap, frame_stack, bootstrap_pixels)
    assert buffer.total_added == slow.added
    assert len(buffer) == sum(min(len(column), ring_size) for column in slow.columns)


def test_windows_of_a_memmap_buffer_equal_slow_reference_after_many_wraps():
    buffer = TrajectoryReplayBuffer(90, num_envs=3, num_actions=NUM_ACTIONS)
    slow = SlowReplay(3, 30)
    play(buffer, slow, random.Random(1), 120, end=0.1)
    assert max(len(column) for column in slow.columns) > 90
    check_all_windows(buffer, slow, 5, 5, 4, True)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
def test_window_across_an_episode_end_worked_by_hand(end):
    # Root is row 1 of trajectory A, K = 2, n = 2, F = 3. Positions 0..4 are rows 1, 2, 3, then nothing: the
    # final frame 13 is repeated. History: rows -1 and 0, the first clamped to row 0.
    window = window_of(golden_buffer(end), 1)
    assert window["pixels"][:, 0, 0, 0].tolist() == [10, 10, 11, 12, 13, 13, 13]
    assert window["observation_mask"].tolist() == [True, True, True, False, False]
    assert window["transition_mask"].tolist() == [True, True, False, False]
    assert window["action"][:2].tolist() == [11 % 3, 12 % 3]
    assert window["reward"].tolist() == [11.5, 12.5, 0.0, 0.0]
    # Only termination stops the bootstrap; the truncated trajectory keeps its final row to bootstrap from.
    assert window["terminated"].tolist() == [False, end == "terminated", False, False]
    assert window["search_value"].tolist() == [11.25, 12.25, 13.25, 0.0, 0.0]
    # 5 transitions received, the root was the second of them.
    assert window["age"] == 4


def test_window_at_trajectory_start_repeats_its_first_frame_not_the_previous_episode():
    window = window_of(golden_buffer("terminated"), 4)
    assert window["pixels"][:, 0, 0, 0].tolist() == [20, 20, 20, 21, 22, 22, 22]


def test_final_rows_and_the_newest_running_row_are_never_drawn():
    buffer = golden_buffer("terminated")
    buffer.append(make_rows([30, 31, 32]), torch.zeros(3))
    index = buffer.sample_windows(7, unroll_steps=0, bootstrap_steps=0, frame_stack=1)["index"]
    # Rows 3 and 6 are final observations, row 9 has no successor yet; all others are drawn, each once.
    assert sorted(index.tolist()) == [0, 1, 2, 4, 5, 7, 8]


def test_running_trajectory_is_usable_at_once_and_grows():
    buffer = TrajectoryReplayBuffer(10, num_actions=NUM_ACTIONS, memmap=False)
    buffer.append(make_rows([1]), torch.tensor([0]))
    assert buffer.num_transitions == 0
    buffer.append(make_rows([2]), torch.tensor([0]))
    assert buffer.num_transitions == 1
    assert window_of(buffer, 0)["transition_mask"].tolist() == [True, False, False, False]
    buffer.append(make_rows([3]), torch.tensor([0]))
    assert window_of(buffer, 0)["transition_mask"].tolist() == [True, True, False, False]


def test_actions_behind_the_end_are_uniform_over_all_actions():
    buffer = TrajectoryReplayBuffer(10, num_actions=18, memmap=False)
    buffer.extend_trajectory(make_rows([0, 1]))
    windows = buffer.sample_windows(2000, unroll_steps=5, bootstrap_steps=0, frame_stack=1)
    assert (windows["action"][:, 0] == 0).all()
    counts = torch.bincount(windows["action"][:, 1:].flatten(), minlength=18).double()
    expected = 8000 / 18
    # 17 degrees of freedom: 40.8 is the 0.1 % point.
    assert ((counts - expected) ** 2 / expected).sum() < 40.8


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), ring_size=st.integers(4, 14), frame_stack=st.integers(1, 4))
def test_a_key_names_one_stack_for_ever(seed, ring_size, frame_stack):
    """While a ring is overwritten many times; a stack that has lost a frame has no key."""
    rng, stack_of, nameless = random.Random(seed), {}, 0
    buffer = TrajectoryReplayBuffer(ring_size, num_actions=NUM_ACTIONS, memmap=False, seed=seed)
    written, lengths = 0, []
    while written < 8 * ring_size:
        length = rng.randint(1, ring_size)
        rows = make_rows(range(length + 1))
        # Every frame is another one: its number in two bytes.
        number = torch.arange(written, written + length + 1)
        frames = torch.stack([number // 256, number % 256], -1).to(torch.uint8).view(-1, 1, 1, 2)
        rows["pixels"] = frames.expand(-1, 1, 2, 2).contiguous()
        if length + 1 > ring_size:
            continue
        buffer.extend_trajectory(rows)
        written += length + 1
        lengths.append(length)
        windows = buffer.sample_windows(16, unroll_steps=2, bootstrap_steps=2, frame_stack=frame_stack)
        stacks = stack_frames(windows["pixels"], frame_stack).flatten(0, 1)
        exists = windows["observation_mask"].flatten().tolist()
        for key, stack, real in zip(windows["key"].flatten().tolist(), stacks, exists, strict=True):
            if key >= 0:
                assert real
                assert torch.equal(stack_of.setdefault(key, stack), stack)
            elif real:
                nameless += 1
    contents = {tuple(stack.flatten().tolist()) for stack in stack_of.values()}
    assert len(contents) == len(stack_of)
    assert len(stack_of) > len(lengths)
    assert nameless == 0 or frame_stack > 1


def emptied(buffer, before):
    buffer.empty()


def filled_from_another(buffer, before):
    buffer.load_state_dict(golden_buffer("truncated").state_dict())
    buffer.extend_trajectory(make_rows([70, 71, 72]))


def rewound(buffer, before):
    buffer.load_state_dict(before)


@pytest.mark.parametrize("change", [emptied, filled_from_another, rewound])
def test_a_key_does_not_come_again_with_other_contents(change):
    buffer = TrajectoryReplayBuffer(20, num_actions=NUM_ACTIONS, memmap=False)
    buffer.extend_trajectory(make_rows([0, 1, 2]))
    before, stack_of = buffer.state_dict(), {}
    for first in (100, 120, 140):
        buffer.extend_trajectory(make_rows(range(first, first + 4)))
        windows = buffer.sample_windows(20, unroll_steps=2, bootstrap_steps=2, frame_stack=2)
        stacks = stack_frames(windows["pixels"], 2).flatten(0, 1)
        for key, stack in zip(windows["key"].flatten().tolist(), stacks, strict=True):
            if key >= 0:
                assert torch.equal(stack_of.setdefault(key, stack), stack)
        change(buffer, before)


def test_a_new_buffer_goes_on_with_the_keys_of_the_state_that_it_loads():
    buffer, resumed = golden_buffer("terminated"), TrajectoryReplayBuffer(20, memmap=False)
    resumed.load_state_dict(buffer.state_dict())
    assert torch.equal(window_of(resumed, 1)["key"], window_of(buffer, 1)["key"])
