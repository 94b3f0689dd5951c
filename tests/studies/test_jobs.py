"""Jobs side by side: order, logs, failures that stop nobody else, and an end on request."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from xtra_rl.studies.jobs import Job, failure_of, run_jobs


def job(tmp_path, name, code="pass", after=(), check=lambda: None):
    command = (sys.executable, "-c", code.replace("HERE", repr(str(tmp_path))))
    return Job(name, command, tmp_path / name / "log.txt", after, check)


def problems(outcomes):
    return {outcome.job.name: outcome.problem for outcome in outcomes}


def test_output_goes_to_the_log_behind_the_command(tmp_path):
    one = job(tmp_path, "one", "import sys; print('hello'); print('oh', file=sys.stderr)")
    assert problems(run_jobs([one])) == {"one": None}
    run_jobs([one])
    lines = one.log.read_text().splitlines()
    assert sorted(lines[1:3]) == ["hello", "oh"]
    assert lines[0].startswith("20")
    assert " $ " in lines[3]


def test_a_failure_is_named_with_its_last_line_and_stops_only_what_needs_it(tmp_path):
    jobs = [
        job(tmp_path, "data", "print('learning'); raise SystemExit('error: the disk is full')"),
        job(tmp_path, "student", after=("data",)),
        job(tmp_path, "run", after=("student",)),
        job(tmp_path, "other", after=("built long ago",)),
        job(tmp_path, "killed", "import os; print('x', flush=True); os.kill(os.getpid(), 9)"),
        job(tmp_path, "hollow", check=lambda: "it left no run directory"),
    ]
    assert problems(run_jobs(jobs, parallel=2)) == {
        "data": "exit status 1: error: the disk is full",
        "student": "not started, because data failed: exit status 1: error: the disk is full",
        "run": "not started, because data failed: exit status 1: error: the disk is full",
        "other": None,
        "killed": "killed by SIGKILL: x",
        "hollow": "it left no run directory",
    }
    assert not (tmp_path / "run" / "log.txt").exists()


FAILS_ONCE = """
import pathlib
first = not (pathlib.Path(HERE) / "tried").exists()
(pathlib.Path(HERE) / "tried").touch()
raise SystemExit("error: the node went away" if first else 0)
"""


def test_a_job_that_failed_is_started_again_behind_the_others(tmp_path):
    order, again = [], []
    jobs = [
        job(tmp_path, "once", FAILS_ONCE),
        job(tmp_path, "always", "raise SystemExit('error: no such game')"),
        job(tmp_path, "needs both", after=("once", "other")),
        job(tmp_path, "other"),
        job(tmp_path, "lost", after=("always",)),
    ]
    outcomes = run_jobs(
        jobs,
        retries=1,
        on_start=lambda job: order.append(job.name),
        on_retry=lambda job, problem: again.append((job.name, problem)),
    )
    found = {outcome.job.name: (outcome.problem, outcome.retried) for outcome in outcomes}
    gone, unknown = "exit status 1: error: the node went away", "exit status 1: error: no such game"
    assert found["once"] == (None, (gone,))
    assert found["always"] == (unknown, (unknown,))
    assert found["needs both"] == found["other"] == (None, ())
    assert found["lost"] == (f"not started, because always failed: {unknown}", ())
    assert again == [("once", gone), ("always", unknown)]
    assert order == ["once", "always", "other", "once", "needs both", "always"]
    assert [failure_of(each.log) for each in jobs[:3]] == [None, f"{unknown} (attempt 2)", None]
    assert failure_of(jobs[4].log) == found["lost"][0]
    with pytest.raises(ValueError, match="retries -1"):
        run_jobs(jobs, retries=-1)


def test_the_note_of_a_failure_goes_when_the_job_is_started_again(tmp_path):
    once = job(tmp_path, "once", FAILS_ONCE)
    run_jobs([once])
    assert failure_of(once.log) == "exit status 1: error: the node went away (attempt 1)"
    run_jobs([once])
    assert failure_of(once.log) is None


def test_a_log_that_cannot_be_written_fails_its_job_alone(tmp_path):
    (tmp_path / "one").write_text("in the way")
    found = problems(run_jobs([job(tmp_path, "one"), job(tmp_path, "two")]))
    assert found["one"].startswith("not started: ")
    assert str(tmp_path / "one") in found["one"]
    assert found["two"] is None


def test_as_many_run_at_a_time_as_allowed_and_none_before_what_it_needs(tmp_path):
    running, most, order = set(), [], []

    def start(job):
        running.add(job.name)
        most.append(len(running))
        order.append(job.name)

    jobs = [job(tmp_path, "last", after=("0", "1", "2", "3"))]
    jobs += [job(tmp_path, str(number), "import time; time.sleep(0.3)") for number in range(4)]
    run_jobs(jobs, parallel=2, on_start=start, on_end=lambda outcome: running.remove(outcome.job.name))
    assert max(most) == 2
    assert order == ["0", "1", "2", "3", "last"]
    with pytest.raises(ValueError, match="parallel is 0"):
        run_jobs(jobs, parallel=0)


def waits_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.01)


SAVES = """
import pathlib, signal, sys, time
def end(*_):
    (pathlib.Path(HERE) / "saved").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(pathlib.Path(HERE) / "ready").touch()
time.sleep(60)
"""


def test_an_interruption_lets_every_command_save(tmp_path):
    def interrupt(job):
        if job.name == "second":
            waits_for(tmp_path / "ready")
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job(tmp_path, "first", SAVES), job(tmp_path, "second")], parallel=2, on_start=interrupt)
    assert (tmp_path / "saved").exists()
    assert time.monotonic() - start < 30


def test_a_command_that_does_not_end_is_killed(tmp_path):
    deaf = "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    deaf += "(pathlib.Path(HERE) / 'ready').touch(); time.sleep(60)"

    def interrupt(job):
        if job.name == "second":
            waits_for(tmp_path / "ready")
            raise KeyboardInterrupt

    start = time.monotonic()
    jobs = [job(tmp_path, "first", deaf), job(tmp_path, "second")]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, parallel=2, on_start=interrupt, grace=0.5)
    assert time.monotonic() - start < 30


@pytest.mark.skipif(
    sys.platform != "linux", reason="other systems cannot tell a child that its parent was killed"
)
def test_commands_save_and_end_if_the_study_is_killed(tmp_path):
    code = "from test_jobs import *; run_jobs([job(Path(sys.argv[1]), 'one', SAVES)])"
    study = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=Path(__file__).parent)
    waits_for(tmp_path / "ready")
    study.kill()
    study.wait()
    waits_for(tmp_path / "saved")
    assert (tmp_path / "saved").exists()
