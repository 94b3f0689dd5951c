"""Workers of a Ray cluster as a config asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig
from torchrl.envs import EnvBase

from xtra_rl import distributed
from xtra_rl.data import TrajectoryReplayBuffer
from xtra_rl.distributed.ray_cluster import connect, require_room
from xtra_rl.distributed.ray_collection import RayActor
from xtra_rl.distributed.ray_reanalysis import RayReanalysis
from xtra_rl.envs import TaskSpec, get_task, make_env
from xtra_rl.models import WorldModel
from xtra_rl.objectives import LaggingTarget
from xtra_rl.recipes import common
from xtra_rl.targets import ReanalyzeTargets
from xtra_rl.training.actor import Planner
from xtra_rl.training.batches import Targets
from xtra_rl.training.seeding import derive_seed

#: Pools of this process by what they do; a stage that begins ends those of the stage before, whose CPUs it needs.
_POOLS: dict[str, Any] = {}


def check(cfg: DictConfig) -> None:
    """Refuse numbers of workers that cannot be."""
    settings = cfg.workers
    for key in ("reanalysis", "collection", "max_staleness", "collect_ahead"):
        if settings[key] < 0:
            raise ValueError(f"workers.{key} is {settings[key]}; expected 0 or more")
    for key, kind in (("max_staleness", "reanalysis"), ("collect_ahead", "collection")):
        if settings[key] and not settings[kind]:
            raise ValueError(f"workers.{key} needs workers.{kind}: nothing is done ahead without workers")
    if not (settings.reanalysis or settings.collection):
        return
    if distributed.world_size() > 1:
        raise ValueError("workers.* and torchrun do not go together; start one process, or pass no workers")
    if common.device_of(cfg).type == "cuda" and not settings.gpus:
        raise ValueError(
            "workers.gpus is 0, but the device is a GPU; pass the share of a GPU that each worker may have, at most"
            f" {int(100 / (settings.reanalysis + settings.collection)) / 100} where there is one GPU, or device=cpu"
        )


def make_pool(cfg: DictConfig, kind: str, make: Any, *parts: Any, **settings: Any) -> Any:
    """Join the cluster, or start one with room for all workers, and make a pool in the place of an earlier one."""
    connect(cfg.workers.address, num_cpus=cfg.workers.reanalysis + cfg.workers.collection)
    if kind in _POOLS:
        _POOLS.pop(kind).close()
    require_room(cfg.workers.reanalysis + cfg.workers.collection, cfg.workers.gpus)
    options = {"num_gpus": cfg.workers.gpus}
    _POOLS[kind] = make(*parts, workers=cfg.workers[kind], options=options, **settings)
    return _POOLS[kind]


def reanalysis(cfg: DictConfig, local: ReanalyzeTargets, target: LaggingTarget) -> Targets:
    """``local`` split among workers, or ``local`` itself where there are none."""
    check(cfg)
    if not cfg.workers.reanalysis:
        return local
    return make_pool(cfg, "reanalysis", RayReanalysis, local, target)


def batches_ahead(cfg: DictConfig, targets: Mapping[str, Targets]) -> int:
    """How many batches a source sends before their turn: none where all targets are made in this process."""
    remote = any(isinstance(each, RayReanalysis) for each in targets.values())
    return cfg.workers.max_staleness if remote else 0


def games(task: TaskSpec, settings: dict[str, Any], num_envs: int, seed: int) -> EnvBase:
    """Some of the games, in a worker."""
    return make_env(task, num_envs, seed=seed, num_threads=1, **settings)


def actor(
    cfg: DictConfig,
    task: str,
    stage: str,
    planner: Planner,
    model: WorldModel,
    replay: TrajectoryReplayBuffer,
) -> RayActor:
    """The games that are played while training, split among workers."""
    make = partial(games, get_task(task), common.env_kwargs(cfg))
    seed = derive_seed(cfg.seed, "env", stage, task)
    ahead = cfg.workers.collect_ahead
    return make_pool(cfg, "collection", RayActor, make, planner, model, replay, seed=seed, ahead=ahead)
