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
    return dataset.path / "shards" / f"{number:06d}.shard"


def test_missing_dataset_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no dataset in .*nowhere"):
        TrajectoryDataset(tmp_path / "nowhere")


def test_empty_dataset_is_named(tmp_path):
    TrajectoryWriter(tmp_path, "phoenix", frame_shape=SHAPE).close()
    with pytest.raises(DatasetError, match="is empty"):
        TrajectoryDataset(tmp_path)


def test_missing_shard_is_named_on_opening(dataset):
    shard_file(dataset).unlink()
    with pytest.raises(DatasetError, match="000001.shard' is missing"):
        TrajectoryDataset(dataset.path)


def test_truncated_shard_is_named_on_opening(dataset):
    file = shard_file(dataset)
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(DatasetError, match="000001.shard' is truncated"):
        TrajectoryDataset(dataset.path)


def test_a_flipped_bit_is_found_by_verify_and_never_read_as_data(dataset):
    file = shard_file(dataset, 0)
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    found = 0
    for place in rng.choice(len(good), 150, replace=False):
        bad = bytearray(good)
        bad[place] ^= 1 << rng.integers(8)
        file.write_bytes(bad)
        damaged = TrajectoryDataset(dataset.path)
        with pytest.raises(DatasetError, match="000000.shard' is damaged"):
            damaged.verify()
        try:
            for number, length in enumerate([7, 30]):
                same(damaged, number, make_episode(number, length))
        except DatasetError as error:
            found += "000000.shard" in str(error)
    # A few bits, such as zstd's flag for a single segment, change nothing that is read.
    assert found > 140


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version 2, this release reads .* version 1"),
        ("format", "other", "format 'other'"),
        ("index_sha256", "0", "index.npy' does not match"),
    ],
)
def test_wrong_manifest_is_named(dataset, field, value, message):
    file = dataset.path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(DatasetError, match=message):
        TrajectoryDataset(dataset.path)


@pytest.mark.parametrize("name", ["manifest.json", "index.npy"])
def test_cut_off_manifest_or_index_is_named(dataset, name):
    file = dataset.path / name
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(DatasetError, match=name):
        TrajectoryDataset(dataset.path)


def test_other_frames_are_refused_with_both_shapes(dataset):
    dataset.check_frames([1, 6, 5])
    with pytest.raises(DatasetError, match=r"\(1, 6, 5\), \(3, 96, 96\) was asked"):
        dataset.check_frames((3, 96, 96))
