"""Training throughput of xtra_rl's EfficientZero on the CPU, to be compared with ``lightzero.py``.

The parts are those of the recipes (``recipes/build.py``), the loop is ``train_online``; pUCT, and the network that
LightZero builds, which at 64x64 has one residual block more than ours. Prints one line of JSON; ``settings.py`` has the
sizes and says how the rates are computed::

    OMP_NUM_THREADS=1 python results/engine/xtra.py --preset small --seconds 120
    OMP_NUM_THREADS=1 python results/engine/xtra.py --preset small loss.joint_statistics=true
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from settings import GAMES, arguments, report

from xtra_rl.models import WorldModel
from xtra_rl.models.layers import residual_stack
from xtra_rl.recipes import build, common
from xtra_rl.training.loop import train_online
from xtra_rl.training.stopwatch import Stopwatch

T = TypeVar("T")


class TwoClocks(Stopwatch):
    """A stopwatch that reads the CPU's clock too."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu: dict[str, float] = defaultdict(float)

    def time(self, phase: str, work: Callable[[], T]) -> T:
        start = time.process_time()
        result = super().time(phase, work)
        self.cpu[phase] += time.process_time() - start
        return result


def config(game: str, size: dict[str, Any], threads: int, overrides: list[str]) -> DictConfig:
    """The config of the recipe that trains EfficientZero from scratch."""
    hidden, out, predictor = size["projection"]
    optimizer, rate = size["optimizer"]
    wanted = {
        "scale": "paper",
        "target": game,
        "device": "cpu",
        "threads": threads,
        "num_envs": GAMES,
        "+env.num_threads": threads,
        "env.image_size": size["image"],
        "env.grayscale": True,
        "model.channels": size["channels"],
        "model.num_blocks": 1,
        "model.downsample": 8 if size["image"] == 64 else 16,
        "model.lstm_hidden": size["lstm"],
        "model.support_size": size["support"],
        "model.reduced_channels": size["heads"],
        "model.projection_hidden": hidden,
        "model.projection_out": out,
        "model.predictor_hidden": predictor,
        "search.num_simulations": size["simulations"],
        "search.discount": size["discount"],
        "targets.unroll_steps": size["unroll"],
        "targets.policy_ratio": size["reanalyze"],
        "targets.age_interval": "null",
        "optim.name": optimizer.lower(),
        "optim.lr": rate,
        "replay.capacity": 50_000,
        "batch_size": size["batch"],
    }
    with initialize_config_module("xtra_rl.configs", version_base="1.3"):
        given = [f"{key}={value}" for key, value in wanted.items()]
        return compose("collect_offline", overrides=given + overrides)


def network(cfg: DictConfig, task: str) -> WorldModel:
    """The world model, with LightZero's additional block where the frames are 64x64."""
    model = build.world_model(cfg, task, "collect", task)
    if cfg.env.image_size == 64:
        block = residual_stack(cfg.model.channels, 1).to(memory_format=torch.channels_last)
        model.representation.pooled.append(block)  # type: ignore[operator, union-attr]
    return model


def measure(cfg: DictConfig, size: dict[str, Any], seconds: float, first_updates: int) -> dict[str, Any]:
    """Warm up, then time the loop."""
    task = common.target_of(cfg)
    model = network(cfg, task)
    actor, source, learner = build.online(cfg, task, model, "collect")
    watch = TwoClocks()
    loop = train_online(
        actor,
        source,
        learner,
        env_steps=10**9,
        warmup_steps=size["warmup"],
        replay_ratio=size["ratio"],
        watch=watch,
    )
    now = next(loop)
    while now.train_steps < first_updates:
        now = next(loop)
        actor.planner.set_train_step(now.train_steps)
    watch.read()
    watch.cpu.clear()
    env_steps, updates = now.env_steps, now.train_steps
    start, start_cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        now = next(loop)
        actor.planner.set_train_step(now.train_steps)
    total, total_cpu = time.perf_counter() - start, time.process_time() - start_cpu
    wall, cpu = watch.read(), dict(watch.cpu)
    # What the stopwatch does not see, above all the new priorities; it counts as a part of the updates.
    wall["other"], cpu["other"] = total - sum(wall.values()), total_cpu - sum(cpu.values())
    return {
        "env_steps": now.env_steps - env_steps,
        "updates": now.train_steps - updates,
        "seconds": wall,
        "cpu_seconds": cpu,
        "seconds_total": round(total, 1),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def main() -> None:
    args, size = arguments(__doc__)
    cfg = config(args.game, size, args.threads, args.overrides)
    common.prepare_process(cfg)
    run = measure(cfg, size, args.seconds, args.first_updates)
    report(
        "xtra_rl", args, size, run, ("xtra_rl", "torch", "tensordict", "torchrl", "numba", "numpy", "ale-py")
    )


if __name__ == "__main__":
    main()
