"""Seconds and bytes of updates and of acting on made-up replay, by the parts that the capacity plan knows."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from xtra_rl.kernels.benchmark_machine import resident_bytes
from xtra_rl.recipes import common
from xtra_rl.recipes.profile_training import made_up_training
from xtra_rl.training.loop import update
from xtra_rl.training.profiling import Sections, observed_training
from xtra_rl.training.stopwatch import Stopwatch

#: What the plan calls a section of a phase; all others of the phase are its ``overhead``.
_PARTS = {
    ("reanalyse", "encode"): "encode",
    ("reanalyse", "tree"): "search",
    ("reanalyse", "network, inference"): "search",
    ("learn", "network, forward"): "forward",
    ("learn", "network, backward"): "backward",
    ("learn", "optimiser"): "optimiser",
    ("act", "encode"): "search",
    ("act", "tree"): "search",
    ("act", "network, inference"): "search",
    ("act", "environment"): "environment",
}


def changed(cfg: DictConfig, changes: dict[str, Any]) -> DictConfig:
    """A config with some settings replaced."""
    return OmegaConf.merge(cfg, changes)  # type: ignore[return-value]


def by_part(sections: Sections, phases: tuple[str, ...], calls: int) -> dict[str, float]:
    """Seconds of one of so many calls, by part of these phases."""
    parts: dict[str, float] = {}
    for (phase, section), seconds in sections.seconds.items():
        if phase in phases:
            name = {"sample": "sample", "priorities": "sample"}.get(phase)
            name = name or _PARTS.get((phase, section), f"{phase} overhead")
            parts[name] = parts.get(name, 0.0) + seconds / calls
    return parts


def time_training(cfg: DictConfig, device: torch.device) -> dict[str, Any]:
    """Seconds of an update and of an env step of acting by part, one after the other."""
    model, actor, source, learner = made_up_training(changed(cfg, {"prefetch": False}))
    sections, watch = Sections(synchronise=device.type == "cuda"), Stopwatch()
    with ExitStack() as stack:
        # Told apart from the inferences inside of a search, since a stack that is known is not encoded again.
        for planner in {actor.planner, source.targets[common.target_of(cfg)].planner}:
            stack.enter_context(sections.around(planner.world_model, "initial_inference", "encode"))
        stack.enter_context(observed_training(sections, actor, source, learner))
        for count in (cfg.profile.warmup, cfg.profile.updates):
            sections.clear()
            for _ in range(count):
                update(source, learner, watch)
                actor.step()
    return {
        "batch": sum(source.buffers.quotas.values()),
        "update": by_part(sections, ("sample", "reanalyse", "learn", "priorities"), cfg.profile.updates),
        "env_step": by_part(sections, ("act",), cfg.profile.updates * cfg.num_envs),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "resident_bytes": resident_bytes(),
    }


def time_overlapped(cfg: DictConfig) -> dict[str, float]:
    """Seconds of an update of which host, GPU and the thread that draws batches do parts at the same time; memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    _, actor, source, learner = made_up_training(cfg)
    watch, start = Stopwatch(), 0.0
    actor.step()
    for number in range(cfg.profile.warmup + cfg.profile.updates):
        if number == cfg.profile.warmup:
            torch.cuda.synchronize()
            start = time.perf_counter()
        update(source, learner, watch)
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / cfg.profile.updates
    return {"overlapped": seconds, "gpu_bytes": torch.cuda.max_memory_reserved()}
