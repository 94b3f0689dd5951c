"""kill -9 at random moments of one run, and two processes with one seed: the same rows, byte for byte."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline_runs import ROOT

SETTINGS = (
    "scale=smoke", "finetune.env_steps=1400", "finetune.replay_ratio=1.0", "eval.every=200", "log_every=10",
    "task_weight_schedule.cycle=60", "task_weight_schedule.window=20", "checkpoint.every=0.3s",
)  # fmt: skip


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    folder.mkdir(exist_ok=True, parents=True)
    with open(folder / "log.txt", "a") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "recipes" / "xtra_finetune.py"), *arguments], stdout=log, stderr=log
        )


def rows(folder: Path) -> bytes:
    return (folder / "metrics.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_kills_leave_the_run_that_nothing_happened_to(tmp_path, thorough):
    planned = 30 if thorough else 5
    artifacts = f"artifacts={tmp_path / 'artifacts'}"
    whole = start(tmp_path / "whole", *SETTINGS, artifacts, f"run_dir={tmp_path / 'whole'}")
    assert whole.wait(timeout=900) == 0, (tmp_path / "whole" / "log.txt").read_text()[-3000:]

    generator, kills, sittings = random.Random(0), [], 0
    killed = tmp_path / "killed"
    while True:
        process = start(killed, *SETTINGS, artifacts, f"run_dir={killed}")
        sittings += 1
        if len(kills) < planned:
            try:
                # From the import of the libraries to the middle of the training.
                process.wait(timeout=generator.uniform(0, 24))
            except subprocess.TimeoutExpired:
                process.kill()
                newest = max((killed / "checkpoints").glob("step_*"), default=None)
                kills.append(newest.name if newest else "none")
        code = process.wait(timeout=900)
        assert code in (0, -9), (killed / "log.txt").read_text()[-3000:]
        if code == 0:
            break
    print(f"{len(kills)} kills in {sittings} sittings; newest checkpoint at each: {', '.join(kills)}")
    assert len(kills) >= 2 * planned // 3, "the run is too short to be killed so often"
    assert len(set(kills)) > max(1, planned // 6)
    assert rows(killed) == rows(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(1800)
# Two threads take 20 minutes where other work has the second core.
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_two_processes_with_one_seed_have_the_same_rows_for_2000_updates(tmp_path, threads):
    settings = (*SETTINGS, f"threads={threads}", "finetune.env_steps=2040", "finetune.warmup_steps=40")
    settings += ("pretrained=false", "cross_task=false", "finetune.extra_train_steps=0")
    # Saving all the time is what the other test is about; here it would be most of the work.
    settings += ("checkpoint.every=5m", "eval.every=1000")
    folders = [tmp_path / name for name in ("a", "b")]
    processes = []
    for folder in folders:
        processes.append(start(folder, *settings, f"run_dir={folder}"))
        if threads > 1:  # two processes of two threads would fight for two cores
            processes[-1].wait(timeout=900)
    for folder, process in zip(folders, processes):
        assert process.wait(timeout=1200) == 0, (folder / "log.txt").read_text()[-3000:]
    assert rows(folders[0]) == rows(folders[1])
    assert any(line.startswith(b"2040,2000,") for line in rows(folders[0]).splitlines())
