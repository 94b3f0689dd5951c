"""What this machine takes for each part of training and how much memory: the input of the capacity plan.

Times acting, updates by phase and evaluation on made-up replay, for the networks of the paper's tables: the scale's
residual blocks and one block a stage, with and without cross tasks. Needs no datasets, models or network access. On a
CPU scale=paper takes minutes even with a small share of the batch. Commands:

    python recipes/calibrate.py scale=paper device=cuda out=h100.json
    python recipes/calibrate.py scale=paper threads=1 shares=[0.0625,0.03125] evaluation_rounds=4 out=cpu.json
    python recipes/capacity.py h100.json cpu.json --out capacity
"""

from __future__ import annotations

import datetime
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from xtra_rl.files import read_json, write_json
from xtra_rl.kernels.benchmark_machine import machine
from xtra_rl.recipes import common
from xtra_rl.recipes.calibration_times import changed, time_overlapped, time_training
from xtra_rl.recipes.costs import episode_steps, evaluation_step
from xtra_rl.training.run import git_commit


def measure_case(cfg: DictConfig) -> dict[str, Any]:
    """One network, with or without cross tasks, at every share of the batch, and once with task weights measured."""
    device, tasks = common.device_of(cfg), 1 + (len(common.cross_tasks_of(cfg)) if cfg.cross_task else 0)

    def at(share: float) -> DictConfig:
        return changed(
            cfg, {key: max(tasks, round(share * cfg[key])) for key in ("batch_size", "cross_batch_size")}
        )

    found: dict[str, Any] = {"num_blocks": cfg.model.num_blocks, "tasks": tasks}
    found["batches"] = [{"share": share} | time_training(at(share), device) for share in cfg.shares]
    if device.type == "cuda":
        found |= time_overlapped(at(cfg.shares[0]))
    if cfg.cross_task:
        found["measuring"] = time_training(
            changed(at(cfg.shares[0]), {"profile": {"measuring": True}}), device
        )
    return found


def calibrate(cfg: DictConfig) -> Path:
    """Measure all cases, print them; returns the file."""
    # Encodings are kept between publications of the target network, so a few updates on a small replay would encode
    # next to nothing: the plan counts what is new from the time of all.
    cfg = changed(cfg, {"targets": {"memory_bytes": 0}})
    path, about = Path(cfg.out), {"machine": machine(), "commit": git_commit(), "scale": cfg.scale}
    before = read_json(path) if path.is_file() else {}
    content: dict[str, Any] = before if before.items() >= about.items() else {**about, "cases": {}}
    content |= {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "torch": version("torch"),
        "cores": os.cpu_count(),
        "num_envs": cfg.num_envs,
        "evaluation_envs": min(cfg.eval.num_envs, cfg.eval.episodes),
    }
    start = time.perf_counter()
    if "episode_steps" not in content:
        content["episode_steps"] = episode_steps(cfg, cfg.games)
    for blocks in dict.fromkeys((cfg.model.num_blocks, 1)):
        for cross in (True, False):
            name = f"{blocks} blocks, {'cross tasks' if cross else 'alone'}"
            if name in content["cases"]:
                continue
            case = changed(cfg, {"model": {"num_blocks": blocks}, "cross_task": cross})
            content["cases"][name] = measure_case(case)
            if not cross:
                content["cases"][name]["evaluation_step"] = evaluation_step(case, cfg.evaluation_rounds)
            content["load"] = round(os.getloadavg()[0], 2)
            write_json(path, content)
            largest = content["cases"][name]["batches"][0]
            milliseconds = {part: round(1e3 * seconds, 2) for part, seconds in largest["update"].items()}
            common.say(f"{name}: batch {largest['batch']}, ms an update by part {milliseconds}")
    common.say(f"{about['machine']}: {time.perf_counter() - start:.0f} s\ncalibration {path}")
    return path


@hydra.main(config_path="../configs", config_name="calibrate", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    calibrate(cfg)


if __name__ == "__main__":
    common.launch(main)
