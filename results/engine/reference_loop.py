"""Env steps and learner steps a second of the training loop of a checkout: EfficientZero from scratch, nothing else.

Works in old commits too, so the loop of today is compared with the first one (commit 864e228), each in its own
process, in turns::

    git worktree add ../first 864e228
    for i in 1 2 3; do
      for root in ../first .; do PYTHONPATH=$root python results/engine/reference_loop.py $root --threads 1; done
    done

Prints one line of JSON. ``--warmup`` env steps are taken before the first update, so that the replay holds as many
rows as in the middle of a run; the window is one publication interval of the target network.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir

from xtra_rl.recipes import build, common
from xtra_rl.training import loop as loops


class Clocks:
    """Wall and CPU seconds by phase, for the loops of all commits."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)

    def time(self, phase: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        self.wall[phase] += time.perf_counter() - start
        return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", help="the checkout that PYTHONPATH names")
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=6000)
    parser.add_argument("--updates", type=int, default=100)
    args = parser.parse_args()
    folder = str((Path(args.root) / "configs").resolve())
    with initialize_config_dir(folder, version_base="1.3"):
        cfg = compose("xtra_finetune", overrides=[f"scale={args.scale}", f"threads={args.threads}"])
    common.prepare_process(cfg)
    torch.set_num_threads(args.threads)
    model = build.world_model(cfg, "alien", "finetune")
    actor, source, learner = build.online(cfg, "alien", model, "finetune")
    watch, ratio = Clocks(), cfg.finetune.replay_ratio
    loop = loops.train_online(
        actor, source, learner, env_steps=10**9, warmup_steps=args.warmup, replay_ratio=ratio, watch=watch
    )
    now = next(loop)
    while now.train_steps < 4:
        now = next(loop)
    watch.wall.clear()
    first, start, start_cpu = now, time.perf_counter(), time.process_time()
    while now.train_steps - first.train_steps < args.updates:
        now = next(loop)
    wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    env_steps, updates = now.env_steps - first.env_steps, now.train_steps - first.train_steps
    line = {
        "root": args.root,
        "threads": args.threads,
        "env_steps_per_s": round(env_steps / wall, 2),
        "learner_steps_per_s": round(updates / wall, 2),
        "env_steps_per_cpu_s": round(env_steps / cpu, 2),
        "ms_per_update": {phase: round(1e3 * s / updates, 1) for phase, s in watch.wall.items()},
    }
    print(json.dumps(line))  # noqa: T201


if __name__ == "__main__":
    main()
