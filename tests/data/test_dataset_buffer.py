"""Windows read from compressed files are those of a buffer that holds everything."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from dataset_samples import SHAPE, make_episode, write

from xtra_rl.data import TrajectoryReplayBuffer

LENGTHS = [7, 30, 3, 65, 12, 1, 41]


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "data", LENGTHS)


def reference(dataset, episodes, **options):
    """The same episodes in a buffer in memory."""
    rows = sum(int(dataset.episodes["length"][number]) for number in episodes)
    buffer = TrajectoryReplayBuffer(rows, memmap=False, **options)
    for number in episodes:
        buffer.extend_trajectory(dataset.episode(number))
    return buffer


def draw(buffer, **options):
    return buffer.sample_windows(40, **{"unroll_steps": 3, "bootstrap_steps": 4, "frame_stack": 4, **options})


@pytest.mark.parametrize("episodes", [range(7), [1, 3, 5]])
@pytest.mark.parametrize("bootstrap_pixels", [True, False])
@pytest.mark.parametrize("reuse_memory", [True, False])
def test_windows_equal_those_of_a_buffer_in_memory(dataset, episodes, bootstrap_pixels, reuse_memory):
    stored = dataset.to_replay_buffer((), episodes=episodes, seed=3, reuse_memory=reuse_memory)
    in_memory = reference(dataset, episodes, seed=3)
    assert (len(stored), stored.num_transitions) == (len(in_memory), in_memory.num_transitions)
    for _ in range(6):
        got, expected = (draw(buffer, bootstrap_pixels=bootstrap_pixels) for buffer in (stored, in_memory))
        assert set(got.keys()) == set(expected.keys())
        for key, value in expected.items():
            torch.testing.assert_close(got[key], value, rtol=0, atol=0, msg=key)
        priority = torch.rand(40) * 3
        for buffer in (stored, in_memory):
            buffer.update_priority(expected["index"], priority)


def test_saved_priorities_and_random_state_continue_the_draws(dataset, tmp_path):
    first, second = (dataset.to_replay_buffer((), seed=seed) for seed in (3, 4))
    first.update_priority(torch.arange(6), torch.rand(6))
    first.dumps(tmp_path / "saved")
    second.loads(tmp_path / "saved")
    assert torch.equal(draw(first)["pixels"], draw(second)["pixels"])
    second.load_state_dict(first.state_dict())
    assert torch.equal(draw(first)["index"], draw(second)["index"])


def test_writing_to_it_is_refused(dataset):
    with pytest.raises(ValueError, match="cannot be written to"):
        dataset.to_replay_buffer(()).extend_trajectory(dataset.episode(0))


def test_frames_of_any_rows_in_any_order(dataset):
    every = np.concatenate([make_episode(n, length)["pixels"] for n, length in enumerate(LENGTHS)])
    rows = np.random.default_rng(0).integers(0, len(every), 300)
    np.testing.assert_array_equal(dataset.frames.gather(rows), every[rows])
    out = np.empty((300, *SHAPE), np.uint8)
    dataset.frames.gather(rows, out)
    np.testing.assert_array_equal(out, every[rows])
    assert dataset.frames.gather(rows[:0]).shape == (0, *SHAPE)
    with pytest.raises(IndexError, match=f"{len(every)}"):
        dataset.frames.gather(np.array([len(every)]))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copy_maps_the_files_for_itself(dataset, duplicate):
    """An address of the original's means nothing to it, least of all once the original is gone."""
    rows = np.arange(30)
    expected, buffer = dataset.frames.read(0, 30), dataset.to_replay_buffer(())
    windows = draw(buffer)
    copies = [duplicate(thing) for thing in (dataset, dataset.frames, buffer)]
    assert len(pickle.dumps(dataset)) < 1000
    dataset.frames._maps.clear()
    buffer._frames._maps.clear()
    again, reader, other = copies
    assert (again.frames.read(0, 30) == expected).all()
    assert (reader.gather(rows) == expected).all()
    assert draw(other)["pixels"].shape == windows["pixels"].shape


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((16, 7), np.uint8),
        np.zeros((15, *SHAPE), np.uint8),
        np.zeros((16, *SHAPE), np.float32),
        np.zeros((32, *SHAPE), np.uint8)[::2],
    ],
)
def test_memory_that_does_not_fit_is_refused(dataset, out):
    with pytest.raises(ValueError, match="16 frames of"):
        dataset.frames.gather(np.arange(16), out)


def test_memory_that_must_not_be_written_to_is_refused(dataset):
    out = np.zeros((16, *SHAPE), np.uint8)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="to write to"):
        dataset.frames.gather(np.arange(16), out)
