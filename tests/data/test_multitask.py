"""Exact quotas and routing of priorities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensordict import TensorDict

from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer, even_quotas

OPTIONS = {"unroll_steps": 2, "bootstrap_steps": 1, "frame_stack": 2}


def make_buffer(value, length=31):
    buffer = TrajectoryReplayBuffer(100, num_actions=3, memmap=False)
    rows = {
        "pixels": torch.full((length, 1, 2, 2), value, dtype=torch.uint8),
        "action": torch.zeros(length, dtype=torch.long),
        "reward": torch.full((length,), float(value)),
    }
    buffer.extend_trajectory(TensorDict(rows, [length]))
    return buffer


def make_tasks(quotas):
    return MultiTaskReplayBuffer({task: make_buffer(place) for place, task in enumerate(quotas)}, quotas)


def test_quotas_are_exact_and_windows_carry_their_task():
    tasks = make_tasks({"assault": 16, "carnival": 3, "phoenix": 0, "pooyan": 5})
    for _ in range(3):
        batch = tasks.sample_windows(**OPTIONS)
        sizes = {task: len(windows) for task, windows in batch.items()}
        assert sizes == {"assault": 16, "carnival": 3, "pooyan": 5}
        for task, windows in batch.items():
            number = tasks.tasks.index(task)
            assert (windows["task_id"] == number).all()
            assert (windows["pixels"] == number).all()


def test_bootstrap_pixels_may_differ_by_task():
    batch = make_tasks({"a": 2, "b": 2}).sample_windows(bootstrap_pixels={"a": True, "b": False}, **OPTIONS)
    assert [windows["pixels"].shape[1] for windows in batch.values()] == [5, 4]


def test_priorities_go_back_to_their_own_buffer():
    tasks = make_tasks({"a": 4, "b": 4})
    batch = tasks.sample_windows(**OPTIONS)
    joined = {key: torch.cat([w[key] for w in batch.values()]) for key in ("task_id", "index")}
    mix = torch.randperm(8)
    tasks.update_priority(joined["task_id"][mix], joined["index"][mix], torch.arange(2.0, 10.0)[mix])
    for place, (task, windows) in enumerate(batch.items()):
        stored = tasks.buffers[task]._sampler._priority
        assert stored[windows["index"]].tolist() == [2.0 + 4 * place + i for i in range(4)]
        assert (stored > 1).sum() == 4
    with pytest.raises(ValueError, match="task_id=2"):
        tasks.update_priority(torch.tensor([2]), torch.tensor([0]), torch.tensor([1.0]))


@given(st.integers(1, 20), st.integers(1, 600))
def test_even_quotas_sum_to_the_batch_and_differ_by_one_at_most(num_tasks, batch_size):
    names = [str(number) for number in range(num_tasks)]
    if num_tasks > batch_size:
        with pytest.raises(ValueError, match="too small"):
            even_quotas(names, batch_size)
        return
    quotas = even_quotas(names, batch_size)
    assert sum(quotas.values()) == batch_size
    assert max(quotas.values()) - min(quotas.values()) <= 1


@pytest.mark.parametrize(
    ("quotas", "message"),
    [
        ({"a": -1, "b": 2}, "at least 0"),
        ({"a": 0, "b": 0}, "do not sum to 0"),
        ({"a": 1.5, "b": 1}, "whole numbers"),
        ({"a": 1, "b": 1, "c": 1}, r"unknown tasks \['c'\]"),
        ({"a": 1}, r"lack \['b'\]"),
    ],
)
def test_impossible_quotas_are_refused(quotas, message):
    buffers = {"a": make_buffer(0), "b": make_buffer(1)}
    with pytest.raises(ValueError, match=message):
        MultiTaskReplayBuffer(buffers, quotas)


def test_an_empty_buffer_is_named_before_anything_is_drawn():
    full = make_buffer(0)
    empty = TrajectoryReplayBuffer(10, memmap=False)
    tasks = MultiTaskReplayBuffer({"a": full, "b": empty}, {"a": 2, "b": 2})
    before = full._rng.get_state()
    with pytest.raises(ValueError, match=r"\['b'\] hold no transitions"):
        tasks.sample_windows(**OPTIONS)
    assert torch.equal(full._rng.get_state(), before)


def test_snapshot_restores_all_buffers(tmp_path):
    tasks, other = make_tasks({"a": 4, "b": 4}), make_tasks({"a": 4, "b": 4})
    tasks.sample_windows(**OPTIONS)
    tasks.set_beta(0.9)
    tasks.dumps(tmp_path)
    other.loads(tmp_path)
    third = make_tasks({"a": 4, "b": 4})
    third.load_state_dict(tasks.state_dict())
    expected, *got = (each.sample_windows(**OPTIONS) for each in (tasks, other, third))
    for batch in got:
        for task in ("a", "b"):
            assert torch.equal(batch[task]["index"], expected[task]["index"])
            assert torch.equal(batch[task]["priority_weight"], expected[task]["priority_weight"])
