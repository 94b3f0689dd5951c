"""Progress in a terminal, in a log file and switched off."""

from __future__ import annotations

import io

import pytest

from xtra_rl.training import progress as module
from xtra_rl.training.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_one_plain_line_per_ten_seconds(clock):
    file = io.StringIO()
    with progress(100, description="finetune", unit="step", file=file) as bar:
        for _ in range(50):
            clock[0] += 0.5
            bar.update()
    # 25 s of 2 steps/s: lines after 10 s (20 steps) and 20 s (40 steps), and the last one.
    assert file.getvalue().splitlines() == [
        "finetune: 20/100 step (20%), 2 step/s, 0:40 left",
        "finetune: 40/100 step (40%), 2 step/s, 0:30 left",
        "finetune: 50/100 step (50%), 2 step/s, took 0:25",
    ]
    assert "\r" not in file.getvalue()


def test_the_rate_follows_a_change_of_speed(clock):
    file = io.StringIO()
    bar = progress(None, description="play", unit="step", file=file)
    for seconds, steps in ((10, 1000), (10, 10)):
        clock[0] += seconds
        bar.set_postfix(score=1 / 3, lives=2)
        bar.update(steps)
    assert file.getvalue().splitlines()[-1] == "play: 1010 step, 1 step/s, score 0.3333, lives 2"


def test_jobs_that_take_minutes_are_averaged_over_the_last_ones(clock):
    file = io.StringIO()
    bar = progress(20, description="study", unit="job", file=file)
    # Pairs of jobs, side by side, that end 12 s after each other, every 600 s.
    for _ in range(5):
        for seconds in (588, 12):
            clock[0] += seconds
            bar.update()
    assert file.getvalue().splitlines()[-1] == "study: 10/20 job (50%), 300 s/job, 50:00 left"


def test_time_of_other_work_is_no_slow_step_but_is_expected_to_come_again(clock):
    """As evaluations do: one before the first step, one every 100 steps."""
    file = io.StringIO()
    bar = progress(1000, description="finetune", unit="step", file=file)
    clock[0] += 500
    bar.unpause()
    for hundred in range(2):
        for _ in range(100):
            clock[0] += 0.25
            bar.update()
        if hundred == 0:
            clock[0] += 60
            bar.unpause()
    # 4 steps/s throughout; once an evaluation has come in 100 steps, 60 s more for each 100 that are left.
    lines = file.getvalue().splitlines()
    assert lines[0] == "finetune: 40/1000 step (4%), 4 step/s, 4:00 left"
    assert lines[-1] == "finetune: 200/1000 step (20%), 4 step/s, 7:20 left"
    assert all(", 4 step/s, " in line for line in lines)
    bar.close()
    assert file.getvalue().splitlines()[-1] == "finetune: 200/1000 step (20%), 4 step/s, took 10:10"


def test_a_bar_in_a_terminal_does_not_count_other_work_either():
    now = [0.0]
    bar = progress(1000, description="finetune", unit="step", file=Terminal())
    bar._display._time = lambda: now[0]
    bar._display.start_t = bar._display.last_print_t = 0.0
    for seconds in (*[0.25] * 20, 600, *[0.25] * 20):
        now[0] += seconds
        if seconds == 600:
            bar.unpause()
        else:
            bar.update()
    assert bar._display.format_dict["elapsed"] == pytest.approx(10)


def test_an_iterable_is_passed_through_and_closed(clock):
    file = io.StringIO()
    bar = progress(range(3), description="read", unit="file", file=file)
    assert list(bar) == [0, 1, 2]
    bar.close()
    assert file.getvalue().count("\n") == 1
    assert "3/3 file (100%)" in file.getvalue()


def test_a_terminal_gets_a_bar():
    file = Terminal()
    with progress(2, description="finetune", unit="step", file=file) as bar:
        bar.set_postfix(loss=0.5)
        bar.update(2)
        assert bar.n == 2
    assert "finetune: 100%" in file.getvalue()
    assert "loss=0.5" in file.getvalue()


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_nothing_is_written_when_disabled(how, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1" if how == "environment" else "0")
    file = Terminal()
    bar = progress([1, 2], description="x", unit="y", file=file, disable=True if how == "argument" else None)
    assert list(bar) == [1, 2]
    assert bar.n == 2
    assert file.getvalue() == ""


def test_iterating_over_a_total_is_refused():
    with pytest.raises(ValueError, match="call update"):
        list(progress(3, description="x", unit="y", disable=True))
