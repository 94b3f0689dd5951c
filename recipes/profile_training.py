"""Where the time of a training step goes: acting, sampling, reanalysis, forward and backward, optimiser, waiting.

Runs the finetuning loop of a scale for a few updates on made-up replay, prints a table, writes ``profile.json`` and a
picture. Then it measures what the processor or GPU can do at most, and says how much of that the networks reach. Needs
no datasets. Commands:

    python recipes/profile.py scale=laptop threads=1
    python recipes/profile.py scale=paper batch_size=32 cross_batch_size=32 profile.updates=3
    python recipes/profile.py scale=laptop run_dir=runs/after profile.against=runs/before/profile.json
    torchrun --nproc-per-node=2 recipes/profile.py scale=laptop threads=1        the main rank's times, waiting included
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict

from xtra_rl.data import TrajectoryReplayBuffer
from xtra_rl.distributed import is_main, world_size
from xtra_rl.envs import get_task
from xtra_rl.evaluation.report import format_table
from xtra_rl.evaluation.step_times import draw_step_times
from xtra_rl.files import read_json, write_json
from xtra_rl.kernels.benchmark_machine import machine, measure_peaks
from xtra_rl.models import WorldModel
from xtra_rl.recipes import build, common
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.profiling import Sections, inference_flops, network_share, observed_training, step_flops
from xtra_rl.training.run import RunDirectory, git_commit
from xtra_rl.transfer import TaskWeightScheduler

UPDATE = ("sample", "reanalyse", "learn", "priorities")
GAME = 200  # transitions of a made-up trajectory


def fill(cfg: DictConfig, buffer: TrajectoryReplayBuffer, task: str, source: str) -> None:
    """Fill a buffer with noise; ``source`` says whose policies and values: ``search`` or ``teacher``."""
    generator, actions = torch.Generator().manual_seed(0), get_task(task).num_actions
    for number in range(-(-cfg.profile.fill // GAME)):
        shape = (GAME + 1, *common.frame_shape(cfg))
        rows = {
            "pixels": torch.randint(256, shape, generator=generator, dtype=torch.uint8),
            "action": torch.randint(actions, (GAME + 1,), generator=generator),
            "reward": torch.randn(GAME + 1, generator=generator),
            f"{source}_policy": torch.full((GAME + 1, actions), 1 / actions),
            f"{source}_value": torch.zeros(GAME + 1),
        }
        buffer.extend_trajectory(TensorDict(rows, [GAME + 1]), number % buffer.num_envs)


def made_up_training(cfg: DictConfig) -> tuple[WorldModel, Actor, BatchSource, Learner]:
    """The parts of a finetuning run with this config, replay full of noise, ready for its first update."""
    target, settings = common.target_of(cfg), cfg.profile
    crossed = common.cross_tasks_of(cfg) if cfg.cross_task else []
    cross = {
        task: TrajectoryReplayBuffer(settings.fill + GAME + 1, num_actions=get_task(task).num_actions)
        for task in crossed
    }
    model = build.world_model(cfg, target, "profile")
    # Far from its first window, since most steps are; or in one.
    scheduler = TaskWeightScheduler(
        crossed, start=0 if settings.measuring else 10**9, cycle=10**9, window=10**9 - 1
    )
    scheduler = scheduler if crossed else None
    actor, source, learner = build.online(cfg, target, model, "profile", cross, scheduler)
    for task, buffer in source.buffers.buffers.items():
        fill(cfg, buffer, task, "teacher" if task in cross else "search")
    return model, actor, source, learner


def measure(cfg: DictConfig) -> dict[str, Any]:
    """Times of acting and of updates, by phase and section, and the arithmetic in them."""
    device, settings = common.device_of(cfg), cfg.profile
    model, actor, source, learner = made_up_training(cfg)

    def step() -> None:
        batch = source.build(source.draw())
        learner.step(batch)
        source.update_priority(batch)

    rounds = max(1, round(settings.updates / max(cfg.finetune.replay_ratio * cfg.num_envs, 1)))
    sections = Sections(synchronise=device.type == "cuda")
    with observed_training(sections, actor, source, learner) as counted:
        for timed in (settings.warmup, settings.updates):
            sections.clear()
            counted.clear()
            for _ in range(timed):
                step()
            for _ in range(rounds if timed == settings.updates else 1):
                actor.step()
    batch = source.build(source.draw())
    flops = inference_flops(model, counted) + settings.updates * step_flops(learner, batch)
    return {
        "times": [
            {"phase": phase, "section": section, "seconds": seconds, "calls": sections.calls[phase, section]}
            for (phase, section), seconds in sections.seconds.items()
        ],
        "updates": settings.updates,
        "env_steps": rounds * cfg.num_envs,
        "network_share_of_update": network_share(sections, UPDATE),
        "network_share": network_share(sections, (*UPDATE, "act")),
        "flops": flops,
        "network_seconds": network_share(sections, (*UPDATE, "act")) * sum(sections.seconds.values()),
    }


def describe(cfg: DictConfig, found: dict[str, Any]) -> dict[str, Any]:
    """Rates, and how near the networks come to what the machine can do."""
    peaks = measure_peaks(str(common.device_of(cfg)))
    seconds = dict.fromkeys((*UPDATE, "act"), 0.0)
    for row in found["times"]:
        seconds[row["phase"]] += row["seconds"]
    act = seconds.pop("act") / found["env_steps"]
    update, ratio = sum(seconds.values()) / found["updates"], cfg.finetune.replay_ratio
    return {
        "ms_per_env_step": 1e3 * act,
        "ms_per_update": 1e3 * update,
        "env_steps_per_s": 1 / (act + ratio * update),
        "learner_steps_per_s": ratio / (act + ratio * update),
        "network_flops_per_s": found["flops"] / found["network_seconds"],
        "peak_flops_per_s": {"gemm": peaks.gemm, "convolution": peaks.conv},
        "machine": machine(),
        "scale": cfg.scale,
        "config": common.plain(cfg),
        "ranks": world_size(),
        "batch": f"{cfg.batch_size} + {cfg.cross_batch_size if cfg.cross_task else 0}",
        "commit": git_commit(),
    }


def table(found: dict[str, Any], before: dict[str, Any] | None) -> str:
    """Milliseconds by phase and section, of an update, or of an env step while acting."""

    def cells(profile: dict[str, Any]) -> dict[tuple[str, str], float]:
        per = {"act": profile["env_steps"]}
        return {
            (row["phase"], row["section"]): 1e3 * row["seconds"] / per.get(row["phase"], profile["updates"])
            for row in profile["times"]
        }

    now, then = cells(found), cells(before) if before else {}
    rows = []
    for key in sorted({*now, *then}, key=lambda key: (key[0] != "act", key)):
        row = {"phase": key[0], "section": key[1], "per": "env step" if key[0] == "act" else "update"}
        row |= {"before ms": then.get(key, 0.0)} if before else {}
        rows.append(row | {"ms": now.get(key, 0.0)})
    return format_table(rows)


def profile(cfg: DictConfig) -> Path:
    """Measure, print, draw; returns the run directory."""
    before = read_json(cfg.profile.against) if cfg.profile.against else None
    if before is not None and not {"times", "updates", "env_steps"} <= set(before):
        raise ValueError(f"profile.against={cfg.profile.against} is no profile.json of this recipe")
    if cfg.profile.updates < 1 or cfg.profile.fill < 1:
        raise ValueError(
            f"profile.updates={cfg.profile.updates}, profile.fill={cfg.profile.fill}: expected at least 1"
        )
    if cfg.workers.reanalysis or cfg.workers.collection:
        raise ValueError("a profile is of one process; pass no workers")
    # Inside a captured search the networks could not be told from the tree.
    cfg = OmegaConf.merge(cfg, {"search": {"cuda_graph": False}})  # type: ignore[assignment]
    run = RunDirectory(cfg.run_dir or f"runs/profile/{common.target_of(cfg)}-{cfg.scale}")
    found = measure(cfg)
    if not is_main():
        return run.path
    found |= describe(cfg, found)
    write_json(run.path / "profile.json", found)
    picture = draw_step_times(
        {"before": before, "now": found} if before else {"now": found}, run.path / "profile.png"
    )
    common.say(table(found, before))
    peak = max(found["peak_flops_per_s"].values())
    common.say(
        f"\n{found['ms_per_update']:.1f} ms an update, {found['ms_per_env_step']:.1f} ms an env step:"
        f" {found['env_steps_per_s']:.2f} env steps/s and {found['learner_steps_per_s']:.2f} learner steps/s at"
        f" replay_ratio={cfg.finetune.replay_ratio}, one after the other"
        f"\nin the networks: {100 * found['network_share_of_update']:.1f} % of an update,"
        f" {100 * found['network_share']:.1f} % with acting"
        f"\narithmetic there: {found['network_flops_per_s'] / 1e9:.1f} GFLOP/s; this machine's best:"
        f" {found['peak_flops_per_s']['gemm'] / 1e9:.1f} (matrix product), "
        f"{found['peak_flops_per_s']['convolution'] / 1e9:.1f} (convolution)"
        f": {100 * found['network_flops_per_s'] / peak:.0f} %"
        f"\n{found['machine']}"
    )
    common.say(f"\nprofile   {run.path / 'profile.json'}\npicture   {picture}")
    return run.path


@hydra.main(config_path="../configs", config_name="profile", version_base="1.3")
@partial(common.friendly, data_parallel=True)
def main(cfg: DictConfig) -> None:
    profile(cfg)


if __name__ == "__main__":
    common.launch(main)
