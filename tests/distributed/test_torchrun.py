"""The recipes as torchrun starts them: the same run from two processes, one of which may die."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SETTINGS = ("scale=smoke", "finetune.env_steps=200", "eval.every=100", "checkpoint.every=0.5s", "log_every=1")


def start(
    folder: Path, *arguments: str, ranks: int = 2, recipe: str = "xtra_finetune", restarts: int = 0
) -> subprocess.Popen:
    """A recipe under torchrun, or plainly where there is one rank; writes ``log.txt`` in ``folder``."""
    folder.mkdir(exist_ok=True, parents=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--max-restarts={restarts}"]
    launcher = [*torchrun, f"--nproc-per-node={ranks}"] if ranks > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "recipes" / f"{recipe}.py"), *arguments]
    with open(folder / "log.txt", "a") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def finish(process: subprocess.Popen, folder: Path) -> None:
    assert process.wait(timeout=900) == 0, (folder / "log.txt").read_text()[-4000:]


def metrics(run: Path) -> dict[tuple[str, str, str], float]:
    with open(run / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    return {(row["env_step"], row["train_step"], row["metric"]): float(row["value"]) for row in rows}


def pid_of_rank(launcher: int, rank: int) -> int:
    """Process of a rank, by what torchrun put into its environment."""
    for folder in Path("/proc").iterdir():
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            continue
        if parent == launcher and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"no rank {rank} below {launcher}")


def kill_in_training(process: subprocess.Popen, folder: Path, *, rank: int) -> None:
    """Kill a rank once there are two checkpoints."""
    deadline = time.time() + 600
    while len(list((folder / "run" / "checkpoints").glob("step_*/manifest.json"))) < 2:
        assert process.poll() is None, (folder / "log.txt").read_text()[-4000:]
        assert time.time() < deadline
        time.sleep(0.1)
    os.kill(pid_of_rank(process.pid, rank), signal.SIGKILL)


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The run that the others are compared with, and the artifacts that it made."""
    folder = tmp_path_factory.mktemp("one")
    finish(start(folder, *SETTINGS, "artifacts=artifacts", "run_dir=run", ranks=1), folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_ranks_make_the_run_of_one_process(one_process, tmp_path):
    artifacts = f"artifacts={one_process / 'artifacts'}"
    finish(start(tmp_path, *SETTINGS, artifacts, "run_dir=run"), tmp_path)
    mine, theirs = metrics(tmp_path / "run"), metrics(one_process / "run")
    assert list(mine) == list(theirs)  # the same games end, the same windows are measured, at the same steps
    first = [key for key in theirs if key[2].startswith(("loss/", "train/")) and int(key[1]) <= 3]
    assert len(first) > 20
    for key in first:
        assert mine[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-3), key
    summaries = [
        json.loads((folder / "run" / "summary.json").read_text()) for folder in (tmp_path, one_process)
    ]
    for key in ("env_steps", "train_steps", "baselines"):
        assert summaries[0][key] == summaries[1][key]
    log = (tmp_path / "log.txt").read_text()
    assert log.count("is already finished") == 0
    assert log.count("agent     mode") == 1, "every rank talks"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a rank's process in /proc")
def test_a_killed_rank_ends_the_run_which_goes_on_with_another_number_of_ranks(one_process, tmp_path):
    arguments = (*SETTINGS, f"artifacts={one_process / 'artifacts'}", "run_dir=run")
    process = start(tmp_path, *arguments)
    kill_in_training(process, tmp_path, rank=1)
    assert process.wait(timeout=120) != 0
    log = (tmp_path / "log.txt").read_text()
    assert "error: rank 0 of 2 lost another process of this run" in log
    assert "the same command goes on from its last checkpoint" in log
    assert not (tmp_path / "run" / "summary.json").exists()
    (tmp_path / "log.txt").unlink()

    finish(start(tmp_path, *arguments, ranks=1), tmp_path)
    assert list(metrics(tmp_path / "run")) == list(metrics(one_process / "run"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds a rank's process in /proc")
def test_torchrun_lets_a_run_that_lost_its_main_process_go_on(one_process, tmp_path):
    """Also where the first start was to replace a run: the second one must not."""
    arguments = (*SETTINGS, f"artifacts={one_process / 'artifacts'}", "run_dir=run", "resume=restart")
    process = start(tmp_path, *arguments, restarts=1)
    kill_in_training(process, tmp_path, rank=0)
    finish(process, tmp_path)
    assert list(metrics(tmp_path / "run")) == list(metrics(one_process / "run"))
    continued = json.loads((tmp_path / "run" / "manifest.json").read_text())["continued"]
    assert len(continued) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_data_parallel_stages_and_refusals(one_process, tmp_path):
    artifacts = f"artifacts={tmp_path / 'artifacts'}"
    for recipe, product in (("train_teacher", "teachers"), ("distill", "students")):
        arguments = ("scale=smoke", artifacts, "num_cross_tasks=1")
        finish(start(tmp_path, *arguments, recipe=recipe), tmp_path)
        assert list((tmp_path / "artifacts" / product).glob("*/model.safetensors")), product
    small = ("num_cross_tasks=1", "cross_batch_size=1", "run_dir=small")
    assert start(tmp_path, "scale=smoke", artifacts, *small).wait(timeout=300) != 0
    assert (
        "fewer than the 2 processes that share it; raise batch_size or cross"
        in (tmp_path / "log.txt").read_text()
    )
    assert start(tmp_path, "scale=smoke", "checkpoint=none", recipe="evaluate").wait(timeout=300) != 0
    assert "this recipe runs in one process" in (tmp_path / "log.txt").read_text()
