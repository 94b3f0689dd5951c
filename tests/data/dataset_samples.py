"""Small random datasets and what they must read back as."""

from __future__ import annotations

import numpy as np

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter

SHAPE = (1, 6, 5)


def make_episode(seed, length, *, end="terminated", shape=SHAPE):
    rng = np.random.default_rng(seed)
    rows = length + 1
    last = np.arange(rows) == rows - 2
    flags = {name: last & (name == end) for name in ("terminated", "truncated")}
    return {
        "pixels": rng.integers(0, 256, (rows, *shape), dtype=np.uint8),
        "action": rng.integers(0, 18, rows),
        "reward": rng.integers(-2, 3, rows).astype(np.float32),
        **flags,
    }


def write(path, lengths, *, first=0, **options):
    options = {"frame_shape": SHAPE, "shard_rows": 40, **options}
    with TrajectoryWriter(path, "phoenix", **options) as writer:
        for number, length in enumerate(lengths, start=first):
            writer.add_episode(make_episode(number, length), checkpoint=10 * number)
    return TrajectoryDataset(path)


def same(dataset, number, expected):
    rows = dataset.episode(number)
    for key, value in expected.items():
        kept = value if key not in ("action", "reward") else np.append(value[:-1], 0)
        np.testing.assert_array_equal(rows[key].numpy(), kept)
        assert rows[key].numpy().dtype == value.dtype
