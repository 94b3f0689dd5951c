"""Columns beside a dataset."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dataset_samples import make_episode, write

from xtra_rl.data import DatasetError


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "data", [7, 30, 3, 65, 12, 1])


def teacher_columns(dataset):
    rng = np.random.default_rng(9)
    lengths = dataset.episodes["length"]
    policy = [rng.dirichlet(np.ones(18), length).astype(np.float32) for length in lengths]
    return {
        "teacher_policy": policy,
        "teacher_value": [rng.normal(size=n).astype(np.float32) for n in lengths],
    }


def test_columns_come_back_and_reach_the_replay_windows(dataset):
    columns = teacher_columns(dataset)
    for name, arrays in columns.items():
        dataset.write_column(name, (torch.from_numpy(a) for a in arrays), provenance={"teacher": "abc"})
        for stored, expected in zip(dataset.column(name, provenance={"teacher": "abc"}), arrays):
            np.testing.assert_array_equal(stored.numpy(), expected)
    dataset.verify()
    buffer = dataset.to_replay_buffer(provenance={"teacher": "abc"}, alpha=0.0)
    assert buffer.num_transitions == dataset.num_transitions
    windows = buffer.sample_windows(118, unroll_steps=2, bootstrap_steps=3, frame_stack=4)
    # Rows are stored in order, so the root's row tells episode and step.
    starts = np.cumsum(dataset.episodes["length"]) - dataset.episodes["length"]
    for window in windows:
        number = int(np.searchsorted(starts, int(window["index"]), side="right")) - 1
        step = int(window["index"]) - int(starts[number])
        left = int(dataset.episodes["length"][number]) - step
        episode = make_episode(number, int(dataset.episodes["length"][number]) - 1)
        count = min(left, 6)
        assert window["observation_mask"].tolist() == [k < left for k in range(6)]
        np.testing.assert_array_equal(
            window["teacher_value"][:count], columns["teacher_value"][number][step : step + count]
        )
        assert (window["teacher_value"][count:] == 0).all()
        np.testing.assert_array_equal(
            window["teacher_policy"][: min(count, 3)],
            columns["teacher_policy"][number][step : step + min(count, 3)],
        )
        np.testing.assert_array_equal(window["pixels"][3], episode["pixels"][step])


def test_missing_stale_and_damaged_columns_are_named(dataset):
    with pytest.raises(DatasetError, match=r"'teacher_policy' is missing .*train_teacher"):
        dataset.to_replay_buffer()
    values = teacher_columns(dataset)["teacher_value"]
    dataset.write_column("teacher_value", values, provenance={"teacher": "abc"})
    with pytest.raises(DatasetError, match=r"'teacher_value' .*stale: .*'abc', teacher='xyz'"):
        dataset.column("teacher_value", provenance={"teacher": "xyz"})
    assert not dataset.has_column("teacher_value", provenance={"teacher": "xyz"})
    file = dataset.path / "columns" / "teacher_value" / "data.bin"
    good = file.read_bytes()
    file.write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
    with pytest.raises(DatasetError, match="teacher_value/data.bin"):
        dataset.verify()
    with pytest.raises(DatasetError, match="teacher_value/data.bin"):
        dataset.column("teacher_value")
    file.write_bytes(good)
    grown = write(dataset.path, [5], first=6)
    with pytest.raises(DatasetError, match="'teacher_value' .*stale: the dataset has changed"):
        grown.column("teacher_value")
    grown.verify()


def test_columns_that_do_not_fit_are_refused_and_leave_nothing_half_written(dataset):
    values = teacher_columns(dataset)["teacher_value"]
    for arrays, message in (
        (values[:-1], "ends after 5 of 6 episodes"),
        ([*values, values[0]], "more arrays than the 6 episodes"),
        ([values[0][:-1], *values[1:]], "7 rows for episode 0 of 8 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            dataset.write_column("teacher_value", arrays)
        assert not dataset.has_column("teacher_value")
    with pytest.raises(ValueError, match="name='reward'"):
        dataset.write_column("reward", values)


def test_a_column_that_was_left_unfinished_is_continued(dataset):
    values = teacher_columns(dataset)["teacher_value"]
    provenance = {"teacher": "abc"}
    with dataset.column_writer("teacher_value", provenance=provenance, commit_rows=39) as writer:
        for array in values[:3]:
            writer.add(array)
    # The first two episodes reach 39 rows and are committed; the third is lost.
    with pytest.raises(DatasetError, match="'teacher_value' .*unfinished: 2 episodes"):
        dataset.column("teacher_value")
    dataset.verify()
    with dataset.column_writer("teacher_value", provenance=provenance) as writer:
        assert writer.num_episodes == 2
        for array in values[2:]:
            writer.add(array)
    for stored, expected in zip(dataset.column("teacher_value", provenance=provenance), values):
        np.testing.assert_array_equal(stored.numpy(), expected)


def test_a_column_of_another_teacher_or_a_damaged_one_is_begun_again(dataset):
    values = teacher_columns(dataset)["teacher_value"]
    for damage, teacher in ((False, "xyz"), (True, "abc")):
        with dataset.column_writer("teacher_value", provenance={"teacher": "abc"}, commit_rows=1) as writer:
            writer.add(values[0])
        if damage:
            file = dataset.path / "columns" / "teacher_value" / "data.bin"
            file.write_bytes(bytes(file.stat().st_size))
        with dataset.column_writer("teacher_value", provenance={"teacher": teacher}) as writer:
            assert writer.num_episodes == 0
        assert not dataset.has_column("teacher_value")
