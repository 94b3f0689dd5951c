"""Commands that are run side by side, each with a log of its own; one that fails stops only what needs it."""

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
from dataclasses import dataclass
from pathlib import Path

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
    """

    job: Job
    seconds: float
    problem: str | None


def run_jobs(
    jobs: Sequence[Job],
    *,
    parallel: int = 1,
    on_start: Callable[[Job], None] = lambda job: None,
    on_end: Callable[[Outcome], None] = lambda outcome: None,
    grace: float = 60.0,
) -> list[Outcome]:
    """Run jobs in order, as many at a time as allowed, the first that can start first; returns how they ended.

    Whatever interrupts this (Ctrl-C, SIGTERM, an error) asks all commands to end with SIGTERM and waits for them. On
    Linux they get it also if this process is killed.

    Args:
        jobs: with different names.
        parallel: how many run at a time.
        on_start: told of each job that starts.
        on_end: told of each that has ended, or that cannot be started any more.
        grace: seconds that commands have to end in after an interruption, before they are killed.

    Raises:
        ValueError: if ``parallel`` is not positive.
    """
    if parallel < 1:
        raise ValueError(f"parallel is {parallel}; expected at least 1")
    waiting, outcomes = list(jobs), {}
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float]] = {}

    def end(job: Job, seconds: float, problem: str | None) -> None:
        outcomes[job.name] = Outcome(job, seconds, problem)
        on_end(outcomes[job.name])

    try:
        while waiting or running:
            for job, process, start in list(running.values()):
                if process.poll() is not None:
                    del running[job.name]
                    end(job, time.monotonic() - start, _problem(job, process.returncode))
            for job in list(waiting):
                lost = [name for name in job.after if name in outcomes and outcomes[name].problem]
                if lost:
                    waiting.remove(job)
                    end(job, 0.0, f"not started, because {lost[0]} failed")
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


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
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
