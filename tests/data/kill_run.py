"""Run as a program: collect a dataset or annotate it, killed at ten random moments, and say what came of it.

Forks its victims, so that they start at once; arguments: ``collect|annotate``, a folder, a seed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from tensordict import TensorDictBase

sys.path.insert(0, str(Path(__file__).parents[1]))
from gridworld import make_gridworld

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.collect import collect_episodes
from xtra_rl.envs import register_task

EPISODES = 48
KILLS = 10


def wander(td: TensorDictBase) -> TensorDictBase:
    """A policy that depends on the frame only, slowed down so that a kill meets it at work."""
    time.sleep(0.002)
    return td.set("action", td["pixels"].flatten(1).long().cumsum(1).sum(1) % 4)


def collect(path: Path) -> None:
    register_task("kill_grid", make_gridworld, num_actions=5, action_ids=(0, 1, 2, 3), overwrite=True)
    with TrajectoryWriter(path, "kill_grid", frame_shape=(1, 24, 24), shard_rows=200) as writer:
        for checkpoint in (1, 2):
            options = {"num_episodes": EPISODES // 2, "max_steps": 20, "num_envs": 8}
            collect_episodes(wander, "kill_grid", writer, checkpoint=checkpoint, seed=checkpoint, **options)


def annotate(path: Path) -> None:
    dataset = TrajectoryDataset(path)
    with dataset.column_writer("teacher_value", provenance={"teacher": "t"}, commit_rows=40) as writer:
        for number in range(writer.num_episodes, dataset.num_episodes):
            time.sleep(0.005)
            writer.add(dataset.episode(number)["pixels"].float().mean((1, 2, 3)).numpy())


def run(job, path: Path, seconds: float | None) -> tuple[bool, float]:
    """Run a job in a child, killed after some time; whether it finished, and its time."""
    start = time.time()
    child = os.fork()
    if child == 0:
        try:
            job(path)
        except BaseException as error:
            print(f"child failed: {error!r}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.waitstatus_to_exitcode(status) != 0:
        sys.exit("a run ended with an error")
    return not os.WIFSIGNALED(status), time.time() - start


if __name__ == "__main__":
    torch.set_num_threads(1)
    kind, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    job = {"collect": collect, "annotate": annotate}[kind]
    generator = random.Random(seed)
    reference, victim = folder / "reference", folder / "victim"
    if kind == "annotate":
        collect(reference)
        collect(victim)
    _, seconds = run(job, reference, None)
    kills = sum(not run(job, victim, generator.uniform(0, seconds / 4))[0] for _ in range(KILLS))
    finished, _ = run(job, victim, None)
    print(kills, finished)
