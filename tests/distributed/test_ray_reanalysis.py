"""Reanalysis by Ray workers: the targets of one process, also when a worker is killed, and ahead of training."""

from __future__ import annotations

import signal

import pytest
import torch
from ray_pools import POOLS
from small_models import small_model
from tensordict import TensorDict

from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer
from xtra_rl.models import InferenceModel
from xtra_rl.objectives import LaggingTarget
from xtra_rl.search import GumbelMCTSPlanner, MCTSPlanner
from xtra_rl.targets import ReanalyzeTargets, RootMemory
from xtra_rl.training.batches import BatchSource

K, N, A, F, B = 2, 2, 5, 2, 7


def replay():
    """Three games of noise."""
    draws = torch.Generator().manual_seed(5)
    buffer = TrajectoryReplayBuffer(200, num_actions=A, memmap=False, seed=3)
    for length in (30, 12, 25):
        rows = {
            "pixels": torch.randint(256, (length + 1, 1, 32, 32), dtype=torch.uint8, generator=draws),
            "action": torch.randint(A, (length + 1,), generator=draws),
            "reward": torch.randn(length + 1, generator=draws),
            "search_policy": torch.rand(length + 1, A, generator=draws).softmax(-1),
            "terminated": torch.arange(length + 1) == length - 1,
        }
        buffer.extend_trajectory(TensorDict(rows, [length + 1]))
    return buffer


def make_source(planner=GumbelMCTSPlanner, workers=0, ahead=0, **options):
    """A source of batches, the target network behind it, and its Ray workers if there are any."""
    torch.manual_seed(1)
    model = small_model(frame_stack=F)
    target = LaggingTarget(model, interval=2)
    search = planner(
        InferenceModel(target.module, external_reset=True), num_simulations=6, discount=0.9, seed=2
    )
    buffer = replay()
    targets = ReanalyzeTargets(
        search, torch.tensor([True] * (A - 1) + [False]), unroll_steps=K, td_steps=N, frame_stack=F, discount=0.9,
        memory=RootMemory(search, buffer.max_rows, version=lambda: target.version), **options,
    )  # fmt: skip
    if workers:
        from xtra_rl.distributed.ray_reanalysis import RayReanalysis

        targets = RayReanalysis(targets, target, workers=workers)
        POOLS.append(targets)
    source = BatchSource(
        MultiTaskReplayBuffer({"alien": buffer}, {"alien": B}), {"alien": targets}, ahead=ahead
    )
    return source, target, getattr(targets, "workers", [])


def train(source, target, steps, first=0):
    """Batches of so many steps, in which weights and priorities change."""
    found = []
    for step in range(first, first + steps):
        batch = source.sample()
        found.append(batch)
        torch.manual_seed(step)
        with torch.no_grad():
            for parameter in target.source.parameters():
                parameter += 0.02 * torch.randn_like(parameter)
        target.step()
        source.update_priority(batch.clone().set("td_error", (batch["index"] % 7 + 0.1) ** 2))
    return found


def assert_same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert set(one.keys()) == set(other.keys())
        for key in one.keys():
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize(
    ("planner", "options"),
    [(GumbelMCTSPlanner, {"policy_ratio": 0.6}), (MCTSPlanner, {"value_source": "search"})],
)
def test_two_workers_make_the_targets_of_one_process_bit_for_bit(cluster, planner, options):
    """Seven windows do not divide by two; the target's weights change after every other batch."""
    alone, target, _ = make_source(planner, **options)
    expected = train(alone, target, 6)
    assert not torch.equal(expected[0]["policy_target"], expected[1]["policy_target"])
    source, target, _ = make_source(planner, workers=2, **options)
    assert_same(train(source, target, 6), expected)


@pytest.mark.slow
def test_a_killed_worker_costs_nothing_but_time(cluster, kill):
    alone, target, _ = make_source()
    expected = train(alone, target, 6)
    source, target, workers = make_source(workers=2)
    found = train(source, target, 3)
    kill(workers[1])
    assert_same(found + train(source, target, 3, first=3), expected)


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_with_another_number_of_workers(cluster):
    alone, target, _ = make_source()
    expected = train(alone, target, 6)
    first, before, _ = make_source(workers=2)
    assert_same(train(first, before, 3), expected[:3])
    POOLS.pop().close()
    second, after, _ = make_source(workers=1)
    after.load_state_dict(before.state_dict())
    after.source.load_state_dict(before.source.state_dict())
    second.load_state_dict(first.state_dict())
    assert_same(train(second, after, 3, first=3), expected[3:])


def test_targets_begun_ahead_are_those_of_the_network_of_then(cluster):
    source, target, _ = make_source(workers=2, ahead=2)
    versions, staleness = [], []
    send = source.targets["alien"].send
    source.targets["alien"].send = lambda windows: (versions.append(target.version), send(windows))
    found = []
    for step in range(6):
        found += train(source, target, 1, first=step)
        staleness.append(source.staleness)
    assert staleness == [0, 1, 2, 2, 2, 2]
    assert versions == [0, 0, 0, 0, 1, 1, 2, 2]
    # The third batch was drawn before the first one trained: with the priorities and the target of the start.
    still, _, _ = make_source()
    assert_same(found[:3], [still.sample() for _ in range(3)])


@pytest.mark.slow
def test_a_run_with_batches_ahead_goes_on_with_the_same_windows(cluster):
    source, target, _ = make_source(workers=1, ahead=2)
    train(source, target, 3)
    other, _, _ = make_source(workers=1, ahead=2)
    other.load_state_dict(source.state_dict())
    for _ in range(2):
        assert torch.equal(other.sample()["index"], source.sample()["index"])


@pytest.mark.slow
def test_an_error_in_a_worker_reaches_the_training(cluster):
    source, _, _ = make_source(workers=1)
    windows = source.draw()
    with pytest.raises(Exception, match="transition_mask"):
        source.build({"alien": windows["alien"].exclude("transition_mask")})


def test_ray_leaves_the_program_its_signals(cluster):
    assert signal.getsignal(signal.SIGTERM).__name__ == "on_signal"


def test_impossible_pools_are_refused(cluster):
    with pytest.raises(ValueError, match="ahead is -1"):
        make_source(ahead=-1)
    with pytest.raises(ValueError, match="workers is -1"):
        make_source(workers=-1)
