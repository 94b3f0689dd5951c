"""Every kind of damage to a dataset is named, never read as data."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from dataset_samples import SHAPE, make_episode, same, write

from xtra_rl.data import DatasetError, TrajectoryDataset, TrajectoryWriter


@pytest.fixture
def dataset(tmp_path):
    return write(tmp_path / "data", [7, 30, 3, 65, 12, 1])


def shard_file(dataset, number=1):
    return dataset.path / "frames" / f"{number:06d}.lz4"


def test_missing_dataset_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no dataset in .*nowhere"):
        TrajectoryDataset(tmp_path / "nowhere")


def test_empty_dataset_is_named(tmp_path):
    TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE).close()
    with pytest.raises(DatasetError, match="is empty"):
        TrajectoryDataset(tmp_path)


def test_missing_shard_is_named_on_opening(dataset):
    shard_file(dataset).unlink()
    with pytest.raises(DatasetError, match="000001.lz4' is missing"):
        TrajectoryDataset(dataset.path)


def test_truncated_shard_is_named_on_opening(dataset):
    file = shard_file(dataset)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(DatasetError, match="000001.lz4' is truncated"):
        TrajectoryDataset(dataset.path)


def read_everything(path):
    dataset = TrajectoryDataset(path)
    dataset.to_replay_buffer(columns=())
    for rows in dataset:
        assert len(rows) > 1


def flipped_bits(file, times):
    """Flip one bit of a file at a time, at random places, yielding its content; the file is whole again in the end."""
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(good), times, replace=False):
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(8)
        file.write_bytes(bad)
        yield bad
    file.write_bytes(good)


@pytest.mark.parametrize("name", ["frames/000000.lz4", "episodes.bin", "blocks.bin", "rows/action.bin"])
def test_a_flipped_bit_is_named_and_never_read_as_data(dataset, name):
    for _ in flipped_bits(dataset.path / name, 60):
        with pytest.raises(DatasetError, match=f"{name}' is damaged"):
            TrajectoryDataset(dataset.path).verify()
        with pytest.raises(DatasetError, match=f"{name}' is damaged"):
            read_everything(dataset.path)
    TrajectoryDataset(dataset.path).verify()


def test_verify_names_every_damaged_file_at_once(dataset):
    for name in ("frames/000002.lz4", "rows/reward.bin"):
        file = dataset.path / name
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(DatasetError, match=r"(?s)(000002.lz4.*reward.bin|reward.bin.*000002.lz4)"):
        TrajectoryDataset(dataset.path).verify()


def test_bytes_behind_the_committed_ones_do_not_count(dataset):
    for file in ("frames/000002.lz4", "rows/reward.bin", "episodes.bin"):
        with open(dataset.path / file, "ab") as handle:
            handle.write(b"left by a killed writer")
    again = TrajectoryDataset(dataset.path)
    again.verify()
    for number, length in enumerate([7, 30, 3, 65, 12, 1]):
        same(again, number, make_episode(number, length))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version 2, this release reads .* version 3"),
        ("task", "pong", "manifest.json' is damaged .its content does not fit its hash"),
        ("format", "other", "format 'other'"),
    ],
)
def test_wrong_manifest_is_named(dataset, field, value, message):
    file = dataset.path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(DatasetError, match=message):
        TrajectoryDataset(dataset.path)


@pytest.mark.parametrize("name", ["manifest.json", "episodes.bin"])
def test_cut_off_manifest_or_index_is_named(dataset, name):
    file = dataset.path / name
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DatasetError, match=name):
        TrajectoryDataset(dataset.path)


def test_other_frames_are_refused_with_both_shapes(dataset):
    dataset.check_frames([1, 6, 5])
    with pytest.raises(DatasetError, match=r"\(1, 6, 5\), \(3, 96, 96\) was asked"):
        dataset.check_frames((3, 96, 96))


@pytest.mark.parametrize("name", ["manifest.json", "columns/value/column.json"])
def test_a_flipped_bit_of_a_description_is_named(dataset, name):
    dataset.write_column("value", [np.zeros(n) for n in dataset.episodes["length"]])
    file = dataset.path / name
    good = file.read_bytes()
    for bad in flipped_bits(file, 150):
        try:
            TrajectoryDataset(dataset.path).verify()
        except DatasetError:
            continue
        # White space holds nothing.
        assert json.loads(bad) == json.loads(good)


def test_descriptions_with_numbers_as_keys_are_read_back(dataset):
    provenance = {"schedule": {5: 1.0, 10: 0.5}}
    dataset.write_column("value", [np.zeros(n) for n in dataset.episodes["length"]], provenance=provenance)
    again = TrajectoryDataset(dataset.path)
    assert again.column_provenance("value") == {"schedule": {"5": 1.0, "10": 0.5}}
    assert again.has_column("value", provenance=provenance)
    with again.column_writer("value", provenance=provenance) as writer:
        assert writer.num_episodes == len(dataset)
