"""Datasets on disk: round trips and restarts."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal

import gymnasium
import numpy as np
import pytest
from dataset_samples import SHAPE, make_episode, same, write

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "data", [7, 30, 3, 65, 12, 1])


def test_episodes_come_back_exactly(dataset):
    assert sum(name.startswith("frames/") for name in dataset.files) == 3
    for number, length in enumerate([7, 30, 3, 65, 12, 1]):
        same(dataset, number, make_episode(number, length))
    dataset.verify()
    assert (dataset.task, dataset.num_episodes, dataset.num_transitions) == ("phoenix", 6, 118)
    assert dataset.episodes["checkpoint"].tolist() == [0, 10, 20, 30, 40, 50]
    lengths = [7, 30, 3, 65, 12, 1]
    expected = [make_episode(n, length)["reward"][:-1].sum() for n, length in enumerate(lengths)]
    assert dataset.returns.tolist() == expected


def test_index_is_memory_mapped(dataset):
    assert isinstance(dataset.episodes, np.memmap)


@pytest.mark.parametrize(("start", "stop"), [(0, 66), (31, 33), (32, 64), (65, 66), (10, 10)])
def test_parts_of_an_episode_come_back_exactly(dataset, start, stop):
    expected = make_episode(3, 65)["pixels"][start:stop]
    np.testing.assert_array_equal(dataset.read(3, "pixels", start, stop).numpy(), expected)


def test_writing_continues_behind_the_last_episode(tmp_path, dataset):
    before = dataset.fingerprint
    dataset = write(tmp_path / "data", [9, 50], first=6)
    assert dataset.num_episodes == 8
    for number, length in enumerate([7, 30, 3, 65, 12, 1, 9, 50]):
        same(dataset, number, make_episode(number, length))
    assert dataset.fingerprint != before


def write_and_die(path, commit_rows):
    writer = TrajectoryWriter(path, "phoenix", frame_shape=SHAPE, shard_rows=40, commit_rows=commit_rows)
    for number in range(5):
        writer.add_episode(make_episode(number, 30), checkpoint=1)
    os.kill(os.getpid(), signal.SIGKILL)


# 31 rows an episode: 70 rows are full after the third, and the two after it are not committed at the kill.
@pytest.mark.parametrize(("commit_rows", "survive"), [(1, 5), (70, 3)])
def test_a_killed_writer_keeps_what_was_committed(tmp_path, commit_rows, survive):
    child = multiprocessing.get_context("fork").Process(target=write_and_die, args=(tmp_path, commit_rows))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    dataset = TrajectoryDataset(tmp_path)
    assert dataset.num_episodes == survive
    dataset.verify()
    with TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE, shard_rows=40) as writer:
        assert (writer.num_episodes, writer.count(1), writer.num_transitions) == (
            survive,
            survive,
            30 * survive,
        )
        for number in range(writer.num_episodes, 6):
            writer.add_episode(make_episode(number, 30), checkpoint=1)
        assert writer.count(1) == 6
    dataset = TrajectoryDataset(tmp_path)
    assert dataset.num_episodes == 6
    dataset.verify()
    for number in range(6):
        same(dataset, number, make_episode(number, 30))


@pytest.mark.parametrize(
    "failing", ["trajectory_writer.append_frames", "trajectory_writer.write_manifest", "append_file.os.fsync"]
)
def test_a_crash_at_any_step_of_an_episode_leaves_the_old_dataset(tmp_path, monkeypatch, failing):
    write(tmp_path, [7, 40])

    def crash(*args, **kwargs):
        raise OSError("disk full")

    writer = TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE)
    with monkeypatch.context() as patch:
        patch.setattr(f"xtra_rl.data.{failing}", crash)
        with pytest.raises(OSError, match="disk full"):
            writer.add_episode(make_episode(2, 9))
    with pytest.raises(ValueError, match="closed"):
        writer.add_episode(make_episode(2, 9))
    dataset = TrajectoryDataset(tmp_path)
    assert dataset.num_episodes == 2
    dataset.verify()
    dataset = write(tmp_path, [9], first=2)
    assert dataset.num_episodes == 3
    dataset.verify()
    same(dataset, 2, make_episode(2, 9))


def test_a_damaged_dataset_is_not_continued(tmp_path, dataset):
    file = dataset.path / "rows" / "action.bin"
    content = bytearray(file.read_bytes())
    content[5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"action.bin' is damaged"):
        TrajectoryWriter(dataset.path, "phoenix", frame_shape=SHAPE)


def test_an_exception_in_the_collecting_loop_saves_whole_episodes(tmp_path):
    def collect():
        with TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE) as writer:
            writer.add_episode(make_episode(0, 4))
            raise RuntimeError("emulator lost")

    with pytest.raises(RuntimeError, match="emulator lost"):
        collect()
    assert TrajectoryDataset(tmp_path).num_episodes == 1


def test_two_writers_and_other_settings_are_refused(tmp_path):
    first = TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE)
    with pytest.raises(ValueError, match="already in use by another trajectory writer"):
        TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE)
    first.close()
    with pytest.raises(ValueError, match="task='phoenix', task='pong' was asked"):
        TrajectoryWriter(tmp_path, "pong", frame_shape=SHAPE)
    with pytest.raises(ValueError, match="frame_skip=4, frame_skip=2"):
        TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE, frame_skip=2)
    TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE).close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": np.zeros((5, 1, 6, 4), np.uint8)}, r"\(1, 6, 4\), the dataset holds uint8 \(1, 6, 5\)"),
        ({"pixels": np.zeros((5, *SHAPE), np.float32)}, "pixels are float32"),
        ({"reward": np.zeros(4, np.float32)}, "'reward': 4"),
        ({"terminated": np.array([0, 1, 0, 0, 0], bool)}, "end at row 1 of 5"),
        ({"lives": np.zeros(5, np.int32)}, "keep one layout"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(tmp_path, change, message):
    with TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE) as writer:
        writer.add_episode(make_episode(0, 4))
        with pytest.raises(ValueError, match=message):
            writer.add_episode({**make_episode(1, 4), **change})
    assert TrajectoryDataset(tmp_path).num_episodes == 1


def play_ale(game, *, grayscale, seed, max_steps):
    """One episode of uniformly random actions, as rows."""
    import ale_py

    gymnasium.register_envs(ale_py)
    env = gymnasium.make(f"ALE/{game}-v5", frameskip=1, repeat_action_probability=0.0, full_action_space=True)
    env = gymnasium.wrappers.AtariPreprocessing(env, screen_size=48, grayscale_obs=grayscale, frame_skip=4)
    rng = np.random.default_rng(seed)
    frame, _ = env.reset(seed=seed)
    rows = {"pixels": [], "action": [], "reward": [], "terminated": [], "truncated": []}
    for step in range(max_steps + 1):
        rows["pixels"].append(frame[None] if grayscale else frame.transpose(2, 0, 1))
        done = step == max_steps or (step > 0 and (rows["terminated"][-1] or rows["truncated"][-1]))
        action, reward, terminated, truncated = 0, 0.0, False, False
        if not done:
            action = int(rng.integers(18))
            frame, reward, terminated, truncated, _ = env.step(action)
            truncated = truncated or (step == max_steps - 1 and not terminated)
        step_rows = {"action": action, "reward": reward, "terminated": terminated, "truncated": truncated}
        for key, value in step_rows.items():
            rows[key].append(value)
        if done:
            break
    env.close()
    return {key: np.stack(value) for key, value in rows.items()}


@pytest.mark.parametrize("grayscale", [True, False])
def test_real_games_survive_the_round_trip(tmp_path, grayscale):
    episodes = [play_ale("Breakout", grayscale=grayscale, seed=seed, max_steps=120) for seed in range(3)]
    shape = (1 if grayscale else 3, 48, 48)
    options = {"frame_shape": shape, "grayscale": grayscale, "shard_rows": 200}
    with TrajectoryWriter(tmp_path, "breakout", **options) as writer:
        for rows in episodes:
            writer.add_episode(rows, checkpoint=10_000)
    dataset = TrajectoryDataset(tmp_path)
    dataset.check_frames(shape)
    assert dataset.env_settings["grayscale"] is grayscale
    for number, rows in enumerate(episodes):
        np.testing.assert_array_equal(dataset.episode(number)["pixels"].numpy(), rows["pixels"])
        np.testing.assert_array_equal(dataset.episode(number)["truncated"].numpy(), rows["truncated"])
        assert dataset.returns[number] == rows["reward"].sum()
    # Real frames are far from noise: lossless compression saves at least nine tenths.
    rows_in_all = sum(len(rows["action"]) for rows in episodes)
    assert dataset.raw_bytes == rows_in_all * (np.prod(shape) + 8 + 4 + 1 + 1)
    assert dataset.stored_bytes < 0.1 * dataset.raw_bytes
    buffer = dataset.to_replay_buffer(columns=())
    windows = buffer.sample_windows(32, unroll_steps=5, bootstrap_steps=5, frame_stack=4)
    assert windows["pixels"].shape == (32, 14, *shape)


def test_a_dataset_can_be_moved(tmp_path, dataset):
    shutil.move(dataset.path, tmp_path / "elsewhere")
    moved = TrajectoryDataset(tmp_path / "elsewhere")
    assert moved.num_episodes == dataset.num_episodes
    same(moved, 1, make_episode(1, 30))
