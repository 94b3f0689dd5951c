"""Commands that are run side by side, each with a log of its own; one that fails is started again, and then stops only
what needs it."""

from __future__ import annotations

import ctypes
import datetime
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

RUN_LOG = "log.txt"
"""Of a run of a study, in its directory."""

_POLL_SECONDS = 0.1
_TAIL_BYTES = 8192
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Job:
    """A command.

    Attributes:
        name: for people, and for other jobs' ``after``.
        command: program and arguments.
        log: file that its output is appended to.
        after: names of jobs that have to succeed before; names of no job here are taken for done.
        check: says what is wrong with what the command left behind, or None.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    after: tuple[str, ...] = ()
    check: Callable[[], str | None] = lambda: None


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        job: which.
        seconds: it took; 0 for one that was not started.
        problem: why it failed, in one line; ``None`` for success.
        retried: problems of the attempts before, in order.
    """

    job: Job
    seconds: float
    problem: str | None
    retried: tuple[str, ...] = ()


def run_jobs(
    jobs: Sequence[Job],
    *,
    parallel: int = 1,
    retries: int = 0,
    on_start: Callable[[Job], None] = lambda job: None,
    on_retry: Callable[[Job, str], None] = lambda job, problem: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    grace: float = 60.0,
) -> list[Outcome]:
    """Run jobs in order, as many at a time as allowed, the first that can start first; returns how they ended.

    One that fails is queued again behind all others, so that what was wrong has time to pass. What failed for good
    leaves a note beside its log, which :func:`failure_of` reads until the job is started again.

    Whatever interrupts this (Ctrl-C, SIGTERM, an error) asks all commands to end with SIGTERM and waits for them. On
    Linux they get it also if this process is killed.

    Args:
        jobs: with different names.
        parallel: how many run at a time.
        retries: how often a job that has failed is started again.
        on_start: told of each job that starts.
        on_retry: told of each that has failed and is queued again, and why.
        on_end: told of each that has ended, or that cannot be started any more.
        grace: seconds that commands have to end in after an interruption, before they are killed.

    Raises:
        ValueError: if ``parallel`` is not positive or ``retries`` is negative.
    """
    if parallel < 1 or retries < 0:
        raise ValueError(f"parallel is {parallel}, retries {retries}; expected at least 1 and 0")
    waiting, outcomes = list(jobs), {}
    failures: dict[str, tuple[str, ...]] = {}
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float]] = {}

    def end(job: Job, seconds: float, problem: str | None) -> None:
        before = failures.get(job.name, ())
        if problem and seconds and len(before) < retries:
            failures[job.name] = (*before, problem)
            waiting.append(job)
            on_retry(job, problem)
            return
        if problem:
            _leave_note(job, f"{problem} (attempt {len(before) + 1})" if seconds else problem)
        outcomes[job.name] = Outcome(job, seconds, problem, before)
        on_end(outcomes[job.name])

    try:
        while waiting or running:
            for job, process, start in list(running.values()):
                if process.poll() is not None:
                    del running[job.name]
                    end(job, time.monotonic() - start, _problem(job, process.returncode))
            for job in list(waiting):
                lost = [outcomes[name] for name in job.after if name in outcomes and outcomes[name].problem]
                if lost:
                    waiting.remove(job)
                    end(job, 0.0, _not_started(lost[0]))
                elif len(running) < parallel and not _pending(job, waiting, running):
                    waiting.remove(job)
                    on_start(job)
                    try:
                        running[job.name] = (job, _start(job), time.monotonic())
                    except OSError as error:
                        end(job, 0.0, f"not started: {error}")
            time.sleep(_POLL_SECONDS)
    finally:
        _stop([process for _, process, _ in running.values()], grace)
    return [outcomes[job.name] for job in jobs]


def _pending(
    job: Job, waiting: Sequence[Job], running: dict[str, tuple[Job, subprocess.Popen[bytes], float]]
) -> bool:
    unfinished = {other.name for other in waiting} | set(running)
    return any(name in unfinished for name in job.after)


def _not_started(lost: Outcome) -> str:
    """Why a job cannot start, down to the one that failed by itself."""
    problem = str(lost.problem)
    return (
        problem
        if problem.startswith("not started")
        else f"not started, because {lost.job.name} failed: {problem}"
    )


def _note_of(log: Path) -> Path:
    return log.with_name(f"{log.name}.failed")


def _leave_note(job: Job, problem: str) -> None:
    with suppress(OSError):  # The disk may be what failed.
        job.log.parent.mkdir(parents=True, exist_ok=True)
        _note_of(job.log).write_text(f"{problem}\n")


def failure_of(log: str | os.PathLike[str]) -> str | None:
    """Why the job with this log failed for good, in one line; ``None`` if it did not, or was started again since."""
    note = _note_of(Path(log))
    return note.read_text().strip() if note.is_file() else None


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    _note_of(job.log).unlink(missing_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with open(job.log, "ab") as log:
        log.write(f"{now} $ {shlex.join(job.command)}\n".encode())
        log.flush()
        # In a session of its own a command gets no Ctrl-C from the terminal besides the SIGTERM from here; a second
        # signal would make it end without saving.
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )


def _end_with_parent() -> None:
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _problem(job: Job, status: int) -> str | None:
    if status == 0:
        return job.check()
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"{how}: {last_line(job.log)}"


def _stop(processes: Sequence[subprocess.Popen[bytes]], grace: float) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace
    try:
        for process in processes:
            process.wait(max(0.0, deadline - time.monotonic()))
    except BaseException as interruption:
        # Too late, or asked to hurry.
        for process in processes:
            process.kill()
            process.wait()
        if not isinstance(interruption, subprocess.TimeoutExpired):
            raise


def last_line(log: str | os.PathLike[str]) -> str:
    """The last line of a log that is not empty."""
    path = Path(log)
    if not path.is_file():
        return "(no log)"
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "(nothing in the log)")
