"""A batch drawn while another trains: the same batches whatever the timing, one step behind on priorities."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from tensordict import TensorDict

from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer
from xtra_rl.data.shard import BatchShard
from xtra_rl.training.batches import BatchSource


class PassOn:
    """Targets that are the windows."""

    unroll_steps, frame_stack, bootstrap_steps, bootstrap_pixels = 1, 1, 0, True

    def __call__(self, windows):
        return windows


def make_source(prefetch, read=None, shard=None):
    buffer = TrajectoryReplayBuffer(300, memmap=False, alpha=1.0)
    frames = torch.arange(201, dtype=torch.uint8).view(-1, 1, 1, 1)
    rows = {"pixels": frames, "action": torch.zeros(201), "reward": torch.arange(201.0)}
    buffer.extend_trajectory(TensorDict(rows, [201]))
    buffers = MultiTaskReplayBuffer({"a": buffer}, {"a": 8})
    if read is not None:
        original = buffers.sample_windows
        buffers.sample_windows = lambda **options: read(original, options)
    return BatchSource(buffers, {"a": PassOn()}, prefetch=prefetch, shard=shard)


def priorities(batch):
    return (batch["index"] % 7 + 0.1) ** 3


def indices(source, steps, work=lambda: None):
    """Rows of each batch of a run in which every step changes priorities."""
    found = []
    for _ in range(steps):
        batch = source.sample()
        found.append(batch["index"].tolist())
        work()
        source.update_priority(batch.set("td_error", priorities(batch)))
    return found


def test_a_draw_knows_all_steps_but_the_last():
    expected, source = [], make_source(prefetch=False)
    ahead = source.sample()
    for _ in range(30):
        batch, ahead = ahead, source.sample()
        expected.append(batch["index"].tolist())
        source.update_priority(batch.set("td_error", priorities(batch)))
    assert indices(make_source(prefetch=True), 30) == expected
    assert indices(make_source(prefetch=False), 30) != expected


def test_the_speed_of_either_side_changes_nothing():
    def slow_read(read, options):
        time.sleep(0.02)
        return read(**options)

    expected = indices(make_source(prefetch=True), 10)
    assert indices(make_source(prefetch=True, read=slow_read), 10) == expected
    assert indices(make_source(prefetch=True), 10, work=lambda: time.sleep(0.02)) == expected


def test_the_next_batch_is_read_while_this_one_trains():
    began = threading.Semaphore(0)

    def announced(read, options):
        began.release()
        return read(**options)

    source = make_source(prefetch=True, read=announced)
    batch = source.sample()
    assert began.acquire(timeout=10)
    # No call in between: the thread has begun on its own.
    assert began.acquire(timeout=10)
    source.update_priority(batch.set("td_error", priorities(batch)))


def test_an_error_of_the_thread_reaches_the_training():
    def failing(read, options):
        raise ValueError("'frames' is damaged")

    with pytest.raises(ValueError, match="'frames' is damaged"):
        make_source(prefetch=True, read=failing).sample()


@pytest.mark.gpu
def test_batches_arrive_whole_on_the_gpu():
    def on_gpu(prefetch):
        source = make_source(prefetch)
        return BatchSource(source.buffers, source.targets, device="cuda", prefetch=prefetch)

    plain, ahead = on_gpu(False), on_gpu(True)
    for _ in range(50):
        expected, found = plain.sample(), ahead.sample()
        assert found.device.type == "cuda"
        # Memory of this batch must not be given to the one that is being drawn.
        busy = torch.randn(2000, 2000, device="cuda")
        for _ in range(5):
            busy = busy @ busy
        assert torch.equal(expected["pixels"].flatten(), found["pixels"].flatten())
        assert torch.equal(expected["index"], found["index"])


def test_a_buffer_that_writes_over_its_last_batch_is_refused():
    buffer = TrajectoryReplayBuffer(300, memmap=False, reuse_memory=True)
    buffers = MultiTaskReplayBuffer({"a": buffer}, {"a": 8})
    BatchSource(buffers, {"a": PassOn()}, prefetch=False)
    with pytest.raises(ValueError, match="reuse_memory"):
        BatchSource(buffers, {"a": PassOn()}, prefetch=True)


@pytest.mark.parametrize("prefetch", [True, False])
def test_batches_after_a_checkpoint_are_those_of_the_unbroken_run(prefetch):
    expected = indices(make_source(prefetch), 20)
    source = make_source(prefetch)
    assert indices(source, 8) == expected[:8]
    other = make_source(prefetch)
    other.load_state_dict(source.state_dict())
    # Taking the state changes nothing, and can be repeated at once.
    third = make_source(prefetch)
    third.load_state_dict(other.state_dict())
    for each in (source, other, third):
        assert indices(each, 12) == expected[8:]


def test_a_batch_that_was_drawn_ahead_is_split_among_the_ranks_that_go_on():
    source = make_source(prefetch=True)
    indices(source, 3)
    state = source.state_dict()
    (whole,) = (windows["a"]["index"].tolist() for windows in state["next"])
    parts = []
    for rank in (0, 1):
        ranked = make_source(prefetch=None, shard=BatchShard({"a": 8}, rank, 2))
        ranked.load_state_dict(state)
        parts.append(ranked.draw()["a"]["index"].tolist())
    assert parts == [whole[0::2], whole[1::2]]
