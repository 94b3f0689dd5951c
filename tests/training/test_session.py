"""Checkpoints in time, signals that wait, budgets: what lets a training die and go on."""

# ruff: noqa: PT012, SIM117 - where inside of the sections a signal ends them is what is tested

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
import torch

from xtra_rl.training import session as session_module
from xtra_rl.training.interrupt import Stopped, deferred, immediate, stop_requested, stop_signals
from xtra_rl.training.session import TrainingSession, parse_duration


class Counter:
    """A component that counts how often it is saved."""

    def __init__(self):
        self.value = 0
        self.saves = 0

    def state_dict(self):
        self.saves += 1
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def ask_to_end(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.fixture
def clock(monkeypatch):
    """``clock(seconds)`` lets time pass."""
    now = [1000.0]
    monkeypatch.setattr(session_module.time, "monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("1h30m", 5400), ("90m", 5400), ("45s", 45), ("1.5h", 5400), (90, 90), ("90", 90)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["two hours", "2d", "", "0s", "-1h", -5, 0, "nan"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="is no duration; expected something like 2h"):
        parse_duration(text)


def test_a_signal_outside_of_deferred_stops_at_once():
    with pytest.raises(Stopped) as caught, stop_signals():
        ask_to_end()
        pytest.fail("went on")
    assert (caught.value.signal_name, caught.value.exit_code) == ("SIGTERM", 0)
    with pytest.raises(Stopped) as caught, stop_signals():
        ask_to_end(signal.SIGINT)
    assert caught.value.exit_code == 130


def test_a_signal_waits_until_deferred_ends():
    reached = []
    with pytest.raises(Stopped), stop_signals():
        with deferred():
            ask_to_end()
            reached.append(stop_requested())
        reached.append("after")
    assert reached == ["SIGTERM"]
    assert stop_requested() is None


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_ctrl_c_after_another_signal_does_not_wait(first):
    reached = []
    with pytest.raises(Stopped), stop_signals(), deferred():
        ask_to_end(first)
        reached.append("first")
        ask_to_end(signal.SIGINT)
        reached.append("second")
    assert reached == ["first"]


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_sigterm_sent_to_all_processes_of_a_job_and_passed_on_by_a_parent_waits(first):
    reached = []
    with pytest.raises(Stopped) as caught, stop_signals(), deferred():
        ask_to_end(first)
        ask_to_end()
        reached.append(stop_requested())
    assert reached == [first.name]
    assert caught.value.signal_name == first.name


def test_immediate_inside_of_deferred():
    with pytest.raises(Stopped), stop_signals(), deferred():
        with immediate():
            pass
        ask_to_end()
        with immediate():
            pytest.fail("the waiting signal was forgotten")


def test_handlers_are_put_back_and_other_threads_left_alone():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with stop_signals():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    failures = []

    def enter():
        try:
            with stop_signals():
                pass
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert failures == []


def test_a_session_goes_on_where_it_was_saved(tmp_path, clock):
    first, counter = TrainingSession(tmp_path, {"counter": (one := Counter())}), Counter()
    first.marks = {"evaluate": 7}
    assert first.restore() == 0
    one.value = 5
    clock(60)
    assert first.save(40)
    drawn = torch.rand(3)
    torch.manual_seed(99)
    clock(1000)
    second = TrainingSession(tmp_path, {"counter": counter})
    assert second.restore() == 40 == second.saved_at
    assert (counter.value, second.marks) == (5, {"evaluate": 7})
    assert torch.equal(torch.rand(3), drawn)
    clock(5)
    assert second.seconds == 65


def test_checkpoints_come_by_the_clock_and_at_multiples(tmp_path, clock):
    counter = Counter()
    session = TrainingSession(tmp_path, {"counter": counter}, every=30, keep=1, keep_every=100)
    for position in range(10, 290, 10):
        clock(4)
        session.ends_after(position)
    steps = sorted(int(path.name[5:]) for path in tmp_path.iterdir())
    assert steps == [100, 200, 280]
    # By the clock 80, 180 and 280, at multiples 100 and 200.
    assert counter.saves == 5


def test_the_budget_counts_all_sittings(tmp_path, clock):
    session = TrainingSession(tmp_path, {}, budget=100)
    clock(60)
    assert not session.ends_after(1)
    session.save(1)
    again = TrainingSession(tmp_path, {}, budget=100)
    again.restore()
    clock(39)
    assert not again.ends_after(2)
    clock(2)
    assert again.ends_after(3)


def test_an_asked_for_end_is_saved_first(tmp_path):
    counter = Counter()
    with pytest.raises(Stopped), stop_signals(), TrainingSession(tmp_path, {"counter": counter}) as session:
        for position in range(1, 10):
            counter.value = position
            if position == 3:
                ask_to_end()
            assert not session.ends_after(position)
    other = Counter()
    assert TrainingSession(tmp_path, {"counter": other}).restore() == 3
    assert other.value == 3


def test_an_interlude_is_cut_at_once_and_loses_nothing(tmp_path):
    counter = Counter()
    counter.value = 4
    reached = []
    with pytest.raises(Stopped), stop_signals(), TrainingSession(tmp_path, {"counter": counter}) as session:
        with session.interlude(4):
            ask_to_end()
            reached.append("never")
    assert reached == []
    assert TrainingSession(tmp_path, {"counter": counter}).restore() == 4


def test_what_an_interlude_changed_is_saved_at_the_same_position(tmp_path):
    counter = Counter()
    session = TrainingSession(tmp_path, {"counter": counter})
    with session.interlude(4):
        counter.value = 1
    session.save(4)
    saves = counter.saves
    session.save(4)
    assert counter.saves == saves == 2
    other = Counter()
    TrainingSession(tmp_path, {"counter": other}).restore()
    assert other.value == 1


def test_a_full_disk_costs_a_warning_and_is_tried_again_later(tmp_path, clock, monkeypatch, caplog):
    real, full = session_module.save_checkpoint, [True]

    def save(*args, **kwargs):
        if full[0]:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(session_module, "save_checkpoint", save)
    session = TrainingSession(tmp_path, {"counter": Counter()}, every=10)
    clock(11)
    session.ends_after(1)
    session.ends_after(2)
    assert [record.getMessage() for record in caplog.records] == [
        "no checkpoint at 1 ([Errno 28] No space left on device); training goes on, and a kill now would cost the steps"
        " since the start"
    ]
    full[0] = False
    clock(11)
    session.ends_after(3)
    assert session.saved_at == 3


def test_a_read_only_folder_is_a_warning_too(tmp_path, caplog):
    (tmp_path / "file").touch()
    session = TrainingSession(tmp_path / "file" / "checkpoints", {"counter": Counter()})
    assert not session.save(1)
    assert "training goes on" in caplog.text


def test_time_between_signal_and_end_is_one_iteration(tmp_path):
    with pytest.raises(Stopped), stop_signals(), TrainingSession(tmp_path, {}) as session:
        threading.Timer(0.05, ask_to_end).start()
        for position in range(1, 1000):
            time.sleep(0.01)
            session.ends_after(position)
    assert TrainingSession(tmp_path, {}).restore() < 100
