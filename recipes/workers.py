"""Workers of a Ray cluster as a config asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from xtra_rl import distributed
from xtra_rl.distributed.ray_cluster import connect
from xtra_rl.distributed.ray_reanalysis import RayReanalysis
from xtra_rl.objectives import LaggingTarget
from xtra_rl.recipes import common
from xtra_rl.targets import ReanalyzeTargets
from xtra_rl.training.batches import Targets

#: Pools of this process by what they do; a stage that begins ends those of the stage before, whose CPUs it needs.
_POOLS: dict[str, Any] = {}


def check(cfg: DictConfig) -> None:
    """Refuse numbers of workers that cannot be."""
    settings = cfg.workers
    for key in ("reanalysis", "max_staleness"):
        if settings[key] < 0:
            raise ValueError(f"workers.{key} is {settings[key]}; expected 0 or more")
    if settings.max_staleness and not settings.reanalysis:
        raise ValueError("workers.max_staleness needs workers.reanalysis: batches wait for nobody otherwise")
    if settings.reanalysis and distributed.world_size() > 1:
        raise ValueError("workers.* and torchrun do not go together; start one process, or pass no workers")
    if settings.reanalysis and common.device_of(cfg).type == "cuda" and not settings.gpus:
        raise ValueError(
            "workers.gpus is 0, but the device is a GPU; pass e.g. workers.gpus=0.25, or device=cpu"
        )


def make_pool(cfg: DictConfig, kind: str, make: Any, *parts: Any, **settings: Any) -> Any:
    """Join the cluster, or start one with room for all workers, and make a pool in the place of an earlier one."""
    connect(cfg.workers.address, num_cpus=cfg.workers.reanalysis)
    if kind in _POOLS:
        _POOLS.pop(kind).close()
    _POOLS[kind] = make(*parts, options={"num_gpus": cfg.workers.gpus}, **settings)
    return _POOLS[kind]


def reanalysis(cfg: DictConfig, local: ReanalyzeTargets, target: LaggingTarget) -> Targets:
    """``local`` split among workers, or ``local`` itself where there are none."""
    check(cfg)
    if not cfg.workers.reanalysis:
        return local
    return make_pool(cfg, "reanalysis", RayReanalysis, local, target, workers=cfg.workers.reanalysis)


def batches_ahead(cfg: DictConfig, targets: Mapping[str, Targets]) -> int:
    """How many batches a source sends before their turn: none where all targets are made in this process."""
    remote = any(isinstance(each, RayReanalysis) for each in targets.values())
    return cfg.workers.max_staleness if remote else 0
