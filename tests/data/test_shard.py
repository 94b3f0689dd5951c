"""A rank's part of a batch is the same samples with the same random numbers, whoever has the rest."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from xtra_rl.data import BatchShard, MultiTaskReplayBuffer, TrajectoryReplayBuffer, augment
from xtra_rl.transfer import sample_weights

OPTIONS = {"unroll_steps": 2, "bootstrap_steps": 1, "frame_stack": 2}


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(1, 8))
def test_parts_of_all_ranks_add_up_to_the_batch_and_are_even(sizes, count):
    quotas = {f"task {i}": max(size, count) if size else 0 for i, size in enumerate(sizes)}
    shards = [BatchShard(quotas, rank, count) for rank in range(count)]
    total = sum(quotas.values())
    assert torch.cat([shard.places for shard in shards]).sort().values.tolist() == list(range(total))
    lengths = [len(shard.places) for shard in shards]
    assert max(lengths) - min(lengths) <= len([quota for quota in quotas.values() if quota])
    assert shards[0].batch_size == total
    assert shards[0].counts.tolist() == list(quotas.values())


def test_too_many_ranks_are_refused_by_the_task_s_name():
    with pytest.raises(
        ValueError, match="task 'amidar' has 3 samples of a batch, fewer than the 4 processes"
    ):
        BatchShard({"alien": 8, "amidar": 3}, 0, 4)
    with pytest.raises(ValueError, match="rank is 2 of 2"):
        BatchShard({"alien": 8}, 2, 2)


def replay():
    buffer = TrajectoryReplayBuffer(100, num_actions=3, memmap=False, seed=4)
    rows = {
        "pixels": torch.arange(60, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2),
        "action": torch.arange(60) % 3,
        "reward": torch.arange(60.0),
    }
    buffer.extend_trajectory(TensorDict(rows, [60]))
    return buffer


def test_ranks_read_the_windows_that_one_process_draws():
    quotas = {"alien": 7, "amidar": 4, "phoenix": 0}
    buffers = [MultiTaskReplayBuffer({task: replay() for task in quotas}, quotas) for _ in range(3)]
    whole = torch.cat(list(buffers[2].sample_windows(**OPTIONS).values()))
    for rank in range(2):
        shard = BatchShard(quotas, rank, 2)
        part = torch.cat(list(buffers[rank].sample_windows(shard=shard, **OPTIONS).values()))
        assert set(part.keys()) == set(whole.keys())
        for key in whole.keys():
            assert torch.equal(part[key], whole[key][shard.places]), key
    # The next draw is equal too: a part takes as many random numbers as the whole.
    again = [buffer.sample_windows(**OPTIONS)["alien"]["index"].tolist() for buffer in buffers]
    assert again[0] == again[1] == again[2]


def test_a_part_is_augmented_as_in_the_whole_batch():
    frames = torch.randint(256, (11, 3, 8, 8), dtype=torch.uint8)
    shard = BatchShard({"alien": 7, "amidar": 4}, 1, 2)
    whole, part = (torch.Generator().manual_seed(0) for _ in range(2))
    expected = augment(frames, pad=2, generator=whole)
    found = augment(frames[shard.places], pad=2, generator=part, shard=shard)
    assert torch.equal(found, expected[shard.places])
    assert torch.equal(whole.get_state(), part.get_state())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_mean_over_ranks_of_weighted_means_is_the_total(reduction):
    quotas = {"alien": 7, "amidar": 4}
    task_id = torch.tensor([0] * 7 + [1] * 4)
    weights, losses = torch.tensor([1.0, 0.3]), torch.rand(11, dtype=torch.float64)
    total = (sample_weights(task_id, weights, reduction=reduction) * losses).mean()
    parts = []
    for rank in range(3):
        shard = BatchShard(quotas, rank, 3)
        own = task_id[shard.places]
        weight = sample_weights(own, weights, reduction=reduction, shard=shard)
        parts.append((weight * losses[shard.places]).mean())
    torch.testing.assert_close(torch.stack(parts).mean(), total)


def test_factors_turn_means_of_parts_into_the_mean_of_the_whole():
    quotas, values = {"alien": 7, "amidar": 4}, torch.rand(11, dtype=torch.float64)
    task_id = torch.tensor([0] * 7 + [1] * 4)
    found = torch.zeros(2, dtype=torch.float64)
    for rank in range(3):
        shard = BatchShard(quotas, rank, 3)
        own, part = task_id[shard.places], values[shard.places]
        counts = torch.bincount(own, minlength=2)
        means = torch.stack([part[own == i].mean() for i in range(2)])
        found += shard.factors(counts) * means / 3
    torch.testing.assert_close(found, torch.stack([values[:7].mean(), values[7:].mean()]))
