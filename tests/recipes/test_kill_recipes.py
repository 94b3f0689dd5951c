"""kill -9 at random moments of the recipes that write data, as a user's machine does it."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xtra_rl.data import TrajectoryDataset

ROOT = Path(__file__).parents[2]
SETTINGS = ("scale=smoke", "target=amidar", "threads=1", "eval.num_envs=4", "teacher.annotation=search")
SETTINGS += ("collect.episodes=40", "collect.max_steps=60", "search.num_simulations=8")


def bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(recipe: str, cwd: Path, writes_to: Path, delay: float | None) -> bool:
    """Start a recipe and kill it ``delay`` seconds after it began to write; whether the kill met it alive."""
    command = [sys.executable, str(ROOT / "recipes" / f"{recipe}.py"), *SETTINGS]
    with open(cwd / "log.txt", "a") as log:
        process = subprocess.Popen(command, cwd=cwd, stdout=log, stderr=log)
        before = bytes_below(writes_to)
        while delay is not None and process.poll() is None and bytes_below(writes_to) == before:
            time.sleep(0.01)
        time.sleep(delay or 0)
        if delay is not None and process.poll() is None:
            process.kill()
        process.wait(timeout=300)
    assert process.returncode in (0, -9), (cwd / "log.txt").read_text()[-3000:]
    return process.returncode == -9


def killed_run(recipe: str, cwd: Path, writes_to: Path, longest: float, kills: int) -> int:
    """Kill a recipe again and again while it writes, then let it finish; how often it was met alive."""
    generator = random.Random(0)
    met = 0
    for _ in range(kills):
        if not run(recipe, cwd, writes_to, generator.uniform(0, longest)):
            break
        met += 1
    run(recipe, cwd, writes_to, None)
    return met


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_recipes_lose_and_double_nothing(tmp_path, thorough):
    kills = 10 if thorough else 5
    met = killed_run("collect_offline", tmp_path, tmp_path / "artifacts", 0.5, kills)
    print(f"collection was killed {met} times")
    assert met >= kills // 2
    [path] = (tmp_path / "artifacts" / "datasets").glob("amidar-*")
    dataset = TrajectoryDataset(path)
    dataset.verify()
    numbers = [(int(e["checkpoint"]), int(e["number"])) for e in dataset.episodes]
    checkpoints = sorted({checkpoint for checkpoint, _ in numbers})
    assert len(checkpoints) == 2
    assert sorted(numbers) == [(c, n) for c in checkpoints for n in range(40)]

    met = killed_run("train_teacher", tmp_path, path, 0.3, kills)
    print(f"teacher and annotation were killed {met} times")
    assert met >= kills // 2
    dataset = TrajectoryDataset(path)
    dataset.verify()
    for name in ("teacher_policy", "teacher_value"):
        assert dataset.has_column(name)
    lengths = [len(dataset.episode(i, columns=("teacher_value",))["teacher_value"]) for i in range(80)]
    assert lengths == (dataset.episodes["length"]).tolist()
