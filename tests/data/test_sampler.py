"""Prioritised sampling: distribution, weights, restart."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from tensordict import TensorDict
from torchrl.data.replay_buffers import LazyTensorStorage, ReplayBuffer, TensorDictReplayBuffer

from xtra_rl.data import TorchPrioritizedSampler
from xtra_rl.data.masses import MassTable


def filled(priorities, *, alpha=0.6, beta=0.4, seed=0):
    sampler = TorchPrioritizedSampler(len(priorities) + 3, alpha=alpha, beta=beta)
    sampler._rng = torch.Generator().manual_seed(seed)
    index = torch.arange(len(priorities))
    sampler.activate(index)
    sampler.update_priority(index, torch.tensor(priorities))
    return sampler


def draw(sampler, batch_size):
    return sampler.sample(None, batch_size)[0]


def sequential_probabilities(weights, count):
    """Probability of each ordered draw without replacement, by the definition."""
    for order in itertools.permutations(range(len(weights)), count):
        probability, left = 1.0, sum(weights)
        for row in order:
            probability *= weights[row] / left
            left -= weights[row]
        yield order, probability


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_single_draws_follow_the_priorities(alpha):
    priorities = [0.1, 1.0, 2.0, 5.0, 0.5, 3.0]
    sampler = filled(priorities, alpha=alpha)
    counts = np.bincount([int(draw(sampler, 1)) for _ in range(4000)], minlength=6)
    expected = np.array(priorities) ** alpha
    assert stats.chisquare(counts, 4000 * expected / expected.sum()).pvalue > 1e-3


def check_ordered_draws(sampler, weights, times):
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(times):
        order = tuple(draw(sampler, 2).tolist())
        counts[order] = counts.get(order, 0) + 1
    table = list(sequential_probabilities(weights, 2))
    observed = [counts.get(order, 0) for order, _ in table]
    assert sum(observed) == times
    assert stats.chisquare(observed, [times * probability for _, probability in table]).pvalue > 1e-3


def test_draws_without_replacement_follow_successive_sampling():
    check_ordered_draws(filled([1.0, 2.0, 4.0, 8.0], alpha=1.0), [1.0, 2.0, 4.0, 8.0], 4000)


def test_the_race_that_ends_a_skewed_draw_has_the_same_distribution(monkeypatch):
    monkeypatch.setattr("xtra_rl.data.sampler._MAX_ROUNDS", 1)
    check_ordered_draws(filled([1.0, 2.0, 4.0, 20.0], alpha=1.0), [1.0, 2.0, 4.0, 20.0], 4000)


def test_a_batch_has_no_repeats_even_when_one_row_has_nearly_all_mass():
    sampler = filled([1e12] + [1e-6] * 99, alpha=1.0)
    index = draw(sampler, 100)
    assert sorted(index.tolist()) == list(range(100))
    assert index[0] == 0


def test_a_batch_larger_than_the_buffer_draws_with_replacement():
    sampler = filled([1.0, 3.0], alpha=1.0)
    counts = np.bincount(draw(sampler, 4000), minlength=2)
    assert stats.chisquare(counts, [1000, 3000]).pvalue > 1e-3


def test_inactive_rows_are_never_drawn():
    sampler = filled([1.0] * 50)
    sampler.deactivate(torch.arange(0, 50, 2))
    assert sampler.num_active == 25
    assert (draw(sampler, 25) % 2 == 1).all()


def test_importance_weights_worked_by_hand():
    # alpha = 1, p = 1/8, 3/8, 4/8 and N = 3: (N p)^-1 = 8/3, 8/9, 2/3; over the largest: 1, 1/3, 1/4.
    sampler = filled([1.0, 3.0, 4.0], alpha=1.0, beta=1.0)
    index, info = sampler.sample(None, 3)
    expected = torch.tensor([1.0, 1 / 3, 1 / 4])[index]
    torch.testing.assert_close(info["priority_weight"], expected)
    sampler.set_beta(0.5)
    index, info = sampler.sample(None, 3)
    torch.testing.assert_close(info["priority_weight"], torch.tensor([1.0, 1 / 3, 1 / 4])[index].sqrt())


def test_a_changed_alpha_reweights_stored_rows():
    sampler = filled([1.0, 4.0], alpha=1.0)
    sampler.alpha = 0.5
    assert sampler.probabilities()[:2].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert sampler.num_active == 2


def test_a_restored_sampler_continues_identically(tmp_path):
    sampler = filled([0.1, 1.0, 2.0, 5.0, 0.5, 3.0] * 10)
    draw(sampler, 7)
    sampler.dumps(tmp_path)
    state = sampler.state_dict()
    expected = [sampler.sample(None, 7) for _ in range(5)]
    sampler.update_priority(torch.arange(60), torch.full((60,), 9.0))

    from_disk = TorchPrioritizedSampler(63, alpha=0.1, beta=0.9)
    from_disk._rng = torch.Generator().manual_seed(99)
    from_disk.loads(tmp_path)
    from_state = TorchPrioritizedSampler(63)
    from_state._rng = torch.Generator()
    from_state.load_state_dict(state)
    for index, info in expected:
        for other in (from_disk, from_state):
            other_index, other_info = other.sample(None, 7)
            assert torch.equal(other_index, index)
            assert torch.equal(other_info["priority_weight"], info["priority_weight"])
    with pytest.raises(ValueError, match="max_capacity=63"):
        TorchPrioritizedSampler(5).load_state_dict(state)


def test_seeds_decide_the_draws():
    draws = [draw(filled([1.0] * 1000, seed=seed), 50).tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0])
def test_bad_priorities_are_refused(bad):
    sampler = filled([1.0, 2.0])
    with pytest.raises(ValueError, match="priority="):
        sampler.update_priority(torch.tensor([0, 1]), torch.tensor([1.0, bad]))
    assert sampler._priority[:2].tolist() == [1.0, 2.0]


def test_zero_priority_stays_drawable():
    sampler = filled([0.0, 0.0, 0.0])
    assert sorted(draw(sampler, 3).tolist()) == [0, 1, 2]


def test_bad_arguments_are_named():
    for arguments in ({"alpha": -1.0}, {"beta": float("nan")}, {"eps": 0.0}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            TorchPrioritizedSampler(4, **arguments)
    with pytest.raises(ValueError, match="empty buffer"):
        draw(TorchPrioritizedSampler(4), 1)
    with pytest.raises(ValueError, match="2 values for 3 rows"):
        filled([1.0, 1.0, 1.0]).update_priority(torch.arange(3), torch.ones(2))


def test_it_serves_a_plain_torchrl_buffer():
    sampler = TorchPrioritizedSampler(100, alpha=1.0)
    plain = TensorDictReplayBuffer(storage=LazyTensorStorage(100), sampler=sampler, batch_size=8)
    plain.extend(TensorDict({"x": torch.arange(20)}, [20]))
    sample = plain.sample()
    assert sample["index"].unique().numel() == 8
    sample["td_error"] = torch.full((8,), 50.0)
    plain.update_tensordict_priority(sample)
    assert (sampler._priority[:20] == 50.0).sum() == 8
    assert sampler.num_active == 20


@pytest.mark.parametrize("shape", [(3, 2), (2, 3)])
def test_it_serves_a_storage_of_several_dimensions(shape):
    sampler = TorchPrioritizedSampler(12, alpha=1.0)
    storage = LazyTensorStorage(12, ndim=2)
    buffer = TensorDictReplayBuffer(storage=storage, sampler=sampler, batch_size=12)
    numbers = torch.arange(6).view(shape)
    for turn in range(2):
        buffer.extend(TensorDict({"x": numbers + 6 * turn}, shape))
        assert sampler.num_active == 6 * (turn + 1)
    drawn = buffer.sample()
    assert sorted(drawn["x"].tolist()) == list(range(12))
    assert torch.equal(storage.get(drawn["index"].unbind(-1))["x"], drawn["x"])
    drawn["td_error"] = drawn["x"] + 1.0
    buffer.update_tensordict_priority(drawn)
    held = storage.get(slice(None))["x"].flatten()
    assert torch.equal(sampler._priority, held.double() + 1)
    buffer.mark_update(drawn["index"])
    assert (sampler._priority == 12).all()


def test_priorities_that_come_with_the_rows_reach_a_storage_of_several_dimensions():
    sampler = TorchPrioritizedSampler(6, alpha=1.0)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(6, ndim=2), sampler=sampler, batch_size=2)
    numbers = torch.arange(6).view(2, 3)
    buffer.extend(TensorDict({"x": numbers, "td_error": numbers + 1.0}, numbers.shape))
    held = buffer._storage.get(slice(None))["x"].flatten()
    assert torch.equal(sampler._priority, held.double() + 1)


@pytest.mark.filterwarnings("ignore:Using `add")  # TorchRL takes a row of several places for several elements
def test_a_single_row_is_added_to_a_storage_of_several_dimensions():
    sampler = TorchPrioritizedSampler(6)
    buffer = ReplayBuffer(storage=LazyTensorStorage(6, ndim=2), sampler=sampler, batch_size=4)
    for first in (0, 2):
        buffer.add(TensorDict({"x": torch.tensor([first, first + 1])}, [2]))
    assert sorted(buffer.sample()["x"].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [1, 5, 256, 257, 3000])
def test_draws_by_blocks_are_those_of_one_long_sum(size):
    generator = np.random.default_rng(size)
    # Whole numbers: sums are exact in any order.
    mass = generator.integers(0, 4, size).astype(float)
    mass[generator.integers(size)] = 7.0
    table = MassTable(size)
    for part in np.array_split(generator.permutation(size), 3):
        table.put(part, mass[part])
    points = np.append(generator.uniform(0, mass.sum(), 500), [0.0, mass.sum() - 1, mass.sum()])
    points[:100] = np.floor(points[:100])
    expected = np.searchsorted(mass.cumsum(), np.minimum(points, np.nextafter(mass.sum(), 0)), "right")
    assert (table.find(points) == expected).all()
    assert table.total == mass.sum()
    assert table.num_positive == np.count_nonzero(mass)


@pytest.mark.parametrize("seed", range(20))
def test_rounding_never_draws_a_row_without_mass(seed):
    generator = np.random.default_rng(seed)
    table = MassTable(4000)
    rows = generator.permutation(4000)[:2000]
    table.put(rows, 10.0 ** generator.uniform(-12, 3, 2000))
    # The ends of rows, where rounding puts a point on either side.
    ends = table.mass.cumsum()
    points = np.concatenate([ends, np.nextafter(ends, 0), np.nextafter(ends, 1e9), [table.total]])
    assert (table.mass[table.find(np.clip(points, 0, table.total))] > 0).all()
    table.put(rows, 0.0)
    assert table.num_positive == 0
    assert table.total == 0.0


def test_enormous_priorities_keep_finite_weights():
    for priorities, alpha in (([1e308, 1.7e308, 1.0], 1.0), ([1e200, 1.0, 2.0], 2.0)):
        sampler = filled([1.0] * 3, alpha=alpha)
        sampler.update_priority(torch.arange(3), torch.tensor(priorities, dtype=torch.float64))
        sampler.activate(torch.tensor([3]))
        index, info = sampler.sample(None, 4)
        assert sorted(index.tolist()) == [0, 1, 2, 3]
        assert ((info["priority_weight"] >= 0) & (info["priority_weight"] <= 1)).all()
        assert torch.isfinite(sampler.probabilities()).all()


@pytest.mark.parametrize("rows", [[-3], [0, 130]])
def test_rows_that_do_not_exist_are_refused(rows):
    with pytest.raises(IndexError, match="130 of the table"):
        MassTable(130).put(np.array(rows), 1.0)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_copied_sampler_draws_by_its_own_priorities(duplicate):
    sampler = duplicate(filled([1.0] * 200, alpha=1.0))
    sampler.deactivate(torch.arange(1, 200))
    assert draw(sampler, 1).tolist() == [0]
