"""From a config to the library's parts: models, planners, targets, learners, replay."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torchrl.envs import EnvBase

from xtra_rl import distributed
from xtra_rl.data import (
    BatchShard,
    MultiTaskReplayBuffer,
    TrajectoryDataset,
    TrajectoryReplayBuffer,
    even_quotas,
)
from xtra_rl.distributed.ray_collection import RayActor
from xtra_rl.envs import get_task, make_env
from xtra_rl.envs.lockstep import Policy
from xtra_rl.evaluation.suite import EvaluationSuite
from xtra_rl.models import InferenceModel, PriorPolicy, RainbowNetwork, WorldModel, make_world_model
from xtra_rl.objectives import LaggingTarget, MuZeroLoss
from xtra_rl.recipes import checks, common, workers
from xtra_rl.recipes.updates import updates_of
from xtra_rl.search import GumbelMCTSPlanner, MCTSPlanner
from xtra_rl.search.backends import resolve_backend
from xtra_rl.targets import ReanalyzeTargets, RootMemory, TeacherTargets
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner, TaskLoss
from xtra_rl.training.model_files import load_into, read_model_notes, save_model
from xtra_rl.training.schedules import make_optimizer, piecewise, warmup_factor
from xtra_rl.training.seeding import derive_seed, make_generator
from xtra_rl.transfer import TaskWeighting

TEACHER_COLUMNS = ("teacher_policy", "teacher_value")


def world_model(cfg: DictConfig, task: str, *names: str) -> WorldModel:
    """The world model for a task's action head; its initialisation depends on the seed and ``names``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(cfg.seed, "model", *names))
        model = make_world_model(
            **checks.input_sizes(cfg, get_task(task)),
            **common.plain(cfg.model),
        )
    if distributed.world_size() > 1 and cfg.data_parallel.batch_norm == "synchronised":
        distributed.synchronise_batch_norm(model)
    return model.to(common.device_of(cfg))


def load_model(cfg: DictConfig, path: str | Path) -> tuple[WorldModel, dict[str, Any]]:
    """A trained model with the sizes it was built with, and its metadata."""
    model = make_world_model(**read_model_notes(path).config)
    metadata = load_into(model, path).metadata
    return model.to(common.device_of(cfg)).eval(), metadata


def is_cloned(about: dict[str, Any]) -> bool:
    """Whether a model's metadata say that it was cloned: its dynamics were then never trained."""
    return str(about.get("stage", "")).startswith("behaviour cloning")


def save(
    path: Path, cfg: DictConfig, model: WorldModel | RainbowNetwork, stage: str, tasks: list[str]
) -> Path:
    """Write a model directory that says where it comes from; of several ranks the main one does."""
    if not distributed.is_main():
        return path
    about = {
        "tasks": tasks,
        "stage": stage,
        "scale": cfg.scale,
        "seed": cfg.seed,
        "env": common.plain(cfg.env),
    }
    return save_model(path, model, config=model.config, metadata=about)


def engine(cfg: DictConfig, model: WorldModel) -> InferenceModel:
    """The folded copy of a model that searches run on; it follows the model as that learns."""
    options = common.plain(cfg.inference)
    return InferenceModel(model, dtype=getattr(torch, options.pop("dtype")), external_reset=True, **options)


def planner(cfg: DictConfig, model: WorldModel, *names: str) -> MCTSPlanner | GumbelMCTSPlanner:
    """Search over a model's engine; its randomness depends on the seed and ``names``."""
    search, generator, folded = cfg.search, make_generator(cfg.seed, "search", *names), engine(cfg, model)
    shared: dict[str, Any] = {
        "num_simulations": search.num_simulations,
        "discount": search.discount,
        "max_bytes": search.max_bytes,
        "backend": search.backend,
        "mask_below_root": search.mask_below_root,
        "cuda_graph": uses_cuda_graph(cfg),
        "generator": generator,
    }
    if search.algorithm == "gumbel":
        names_of = ("max_num_considered_actions", "rescale_floor", "root_logit_scale")
        return GumbelMCTSPlanner(folded, **shared, **{name: search[name] for name in names_of})
    if search.algorithm == "puct":
        names_of = ("pb_c_init", "pb_c_base", "q_normalization", "value_delta_max")
        names_of += ("dirichlet_alpha", "exploration_fraction")
        shared["temperature"] = partial(piecewise, values=common.plain(search.temperature))
        return MCTSPlanner(folded, **shared, **{name: search[name] for name in names_of})
    raise ValueError(f"search.algorithm is {search.algorithm!r}; expected 'puct' or 'gumbel'")


def uses_cuda_graph(cfg: DictConfig) -> bool:
    """``search.cuda_graph=auto`` captures searches wherever Triton runs them."""
    wanted = common.auto_or_bool("search.cuda_graph", cfg.search.cuda_graph)
    if wanted is not None:
        return wanted
    device = common.device_of(cfg)
    return device.type == "cuda" and resolve_backend(cfg.search.backend, device) == "triton"


def shard_of(quotas: dict[str, int]) -> BatchShard | None:
    """This rank's part of a batch with these quotas, where there are several ranks."""
    size = distributed.world_size()
    return BatchShard(quotas, distributed.rank(), size) if size > 1 else None


def reanalyze_targets(
    cfg: DictConfig, target: LaggingTarget, task: str, rows: int, quota: int, *names: str, **changes: Any
) -> ReanalyzeTargets:
    """Targets of a task that is learnt by search on the lagging network, from a buffer of so many ``rows``.

    ``quota`` is how many windows of it a batch has.
    """
    search = planner(cfg, target.module, "reanalyze", task, *names)
    mask = get_task(task).action_mask.to(common.device_of(cfg))
    options = common.plain(cfg.targets) | changes
    room = options.pop("memory_bytes")
    memory = RootMemory(search, rows, version=lambda: target.version, max_bytes=room) if room else None
    shard = shard_of({task: quota})
    return ReanalyzeTargets(
        search,
        mask,
        discount=cfg.search.discount,
        frame_stack=cfg.env.frame_stack,
        shard=None if shard is None else (shard.rows(task), quota),
        memory=memory,
        **options,
    )


def offline_reanalyze_targets(
    cfg: DictConfig, target: LaggingTarget, task: str, rows: int, quota: int, *names: str
) -> ReanalyzeTargets:
    """Targets of a stored dataset that is learnt by reanalysis alone; its data has no age."""
    return reanalyze_targets(
        cfg, target, task, rows, quota, *names, policy_ratio=cfg.teacher.policy_ratio, age_interval=None
    )


def teacher_targets(cfg: DictConfig, model: WorldModel) -> TeacherTargets:
    """Targets of annotated offline data."""
    return TeacherTargets(
        unroll_steps=cfg.targets.unroll_steps,
        td_steps=cfg.targets.td_steps,
        clip_rewards=cfg.targets.clip_rewards,
        discount=cfg.search.discount,
        value_source=cfg.teacher_targets.value_source,
        frame_stack=cfg.env.frame_stack,
        value_prefix_horizon=model.value_prefix_horizon,
    )


def learner(
    cfg: DictConfig,
    model: WorldModel,
    tasks: list[str],
    *names: str,
    updates: int,
    target: LaggingTarget | None = None,
    task_weights: TaskWeighting | None = None,
    reduction: str = "sum",
    loss: TaskLoss | None = None,
    shard: BatchShard | None = None,
) -> Learner:
    """Loss (the world model's, if none is given), optimiser and schedules around a model; ``shard`` as its source.

    ``updates`` are those of the stage, over which the learning rate decays unless the config says how long.
    """
    if cfg.compile:
        for module in model.components().values():
            module.compile(dynamic=False)
    optim = common.plain(cfg.optim)
    schedule = {key: optim.pop(key) for key in ("warmup_steps", "decay", "decay_steps", "decay_rate")}
    if schedule["decay_steps"] is None:
        schedule["decay_steps"] = max(updates - schedule["warmup_steps"], 1)
    max_grad_norm = optim.pop("max_grad_norm")
    return Learner(
        loss or MuZeroLoss(model, **common.plain(cfg.loss)),
        make_optimizer(model, **optim),
        tasks=tasks,
        lr_factor=partial(warmup_factor, **schedule),
        target=target,
        task_weights=task_weights,
        reduction=reduction,  # type: ignore[arg-type]
        max_grad_norm=max_grad_norm,
        frame_stack=cfg.env.frame_stack,
        augmentation=cfg.augmentation,
        **common.plain(cfg.augment),
        generator=make_generator(cfg.seed, "augmentation", *names, device=common.device_of(cfg)),
        autocast=getattr(torch, cfg.autocast) if cfg.autocast else None,
        **common.plain(cfg.watchdog),
        shard=shard,
    )


def offline_buffer(
    cfg: DictConfig,
    path: str | Path,
    task: str,
    *,
    columns: tuple[str, ...],
    provenance: dict[str, Any] | None = None,
) -> TrajectoryReplayBuffer:
    """Replay of a stored dataset, checked against the frames of this config."""
    dataset = TrajectoryDataset(path)
    dataset.check_frames(common.frame_shape(cfg))
    checks.check_background(cfg, dataset.env_settings, f"dataset {str(path)!r}")
    return dataset.to_replay_buffer(
        columns,
        provenance=provenance,
        num_actions=get_task(task).num_actions,
        alpha=cfg.replay.alpha,
        beta=cfg.replay.beta[0],
        seed=derive_seed(cfg.seed, "offline replay", task),
    )


def annotated_buffers(
    cfg: DictConfig, datasets: dict[str, tuple[Path, dict[str, Any]]]
) -> dict[str, TrajectoryReplayBuffer]:
    """Replay of each annotated dataset, given with the provenance of its annotation."""
    return {
        task: offline_buffer(cfg, path, task, columns=TEACHER_COLUMNS, provenance=provenance)
        for task, (path, provenance) in datasets.items()
    }


def batch_source(cfg: DictConfig, buffers: MultiTaskReplayBuffer, targets: dict[str, Any]) -> BatchSource:
    """Batches for a learner of this config."""
    prefetch = common.auto_or_bool("prefetch", cfg.prefetch)
    shard = shard_of(buffers.quotas)
    device, ahead = common.device_of(cfg), workers.batches_ahead(cfg, targets)
    return BatchSource(buffers, targets, device=device, prefetch=prefetch, shard=shard, ahead=ahead)


def prior_policy(cfg: DictConfig, model: WorldModel, task: str) -> PriorPolicy:
    """A model's policy head as it acts without search."""
    return PriorPolicy(engine(cfg, model), generator=make_generator(cfg.seed, "prior policy", task))


def evaluation_suite(
    cfg: DictConfig, task: str, model: WorldModel | RainbowNetwork, policy: Policy | None = None
) -> EvaluationSuite:
    """Evaluations of a model on a task as the config says, by search (with its own randomness) if not by ``policy``."""
    settings = cfg.eval
    return EvaluationSuite(
        task,
        policy or planner(cfg, model, "evaluate", task),
        episodes=settings.episodes,
        max_steps=settings.max_steps,
        env_kwargs=common.env_kwargs(cfg),
        num_envs=settings.num_envs,
        modes=list(settings.modes),
    )


def measure_baselines(cfg: DictConfig, suite: EvaluationSuite) -> None:
    """Scores to read the agent's against; the untrained network searches as the agent does."""
    untrained = None
    if "untrained" in cfg.eval.baselines:
        untrained = planner(cfg, world_model(cfg, suite.task, "untrained"), "untrained")
    suite.measure_baselines(cfg.eval.baselines, untrained)


def games(cfg: DictConfig, task: str, stage: str) -> EnvBase:
    """The games that are played while training."""
    seed = derive_seed(cfg.seed, "env", stage, task)
    env = make_env(task, cfg.num_envs, seed=seed, **common.env_kwargs(cfg))
    checks.check_frames(cfg, env.observation_spec["pixels"].shape[1:], task)
    return env


def replay_of(cfg: DictConfig, task: str, stage: str) -> TrajectoryReplayBuffer:
    """Where the games that are played while training are kept."""
    return TrajectoryReplayBuffer(
        cfg.replay.capacity,
        num_envs=cfg.num_envs,
        num_actions=get_task(task).num_actions,
        alpha=cfg.replay.alpha,
        beta=cfg.replay.beta[0],
        seed=derive_seed(cfg.seed, "replay", stage, task),
    )


def online(
    cfg: DictConfig,
    task: str,
    model: WorldModel,
    stage: str,
    cross: dict[str, TrajectoryReplayBuffer] | None = None,
    task_weights: TaskWeighting | None = None,
) -> tuple[Actor | RayActor, BatchSource, Learner]:
    """EfficientZero on one task, with cross tasks beside it if there are any."""
    cross = cross or {}
    replay = replay_of(cfg, task, stage)
    target = LaggingTarget(model, interval=cfg.target_interval, lag=cfg.target_lag)
    quotas = {task: cfg.batch_size} | (even_quotas(list(cross), cfg.cross_batch_size) if cross else {})
    buffers = MultiTaskReplayBuffer({task: replay, **cross}, quotas)
    fresh = reanalyze_targets(cfg, target, task, replay.max_rows, cfg.batch_size, stage)
    targets = {task: workers.reanalysis(cfg, fresh, target)} | dict.fromkeys(
        cross, teacher_targets(cfg, model)
    )
    source = batch_source(cfg, buffers, targets)
    learn = learner(
        cfg,
        model,
        [task, *cross],
        stage,
        updates=updates_of(cfg)["collect.env_steps" if stage == "collect" else "finetune.env_steps"],
        target=target,
        task_weights=task_weights,
        reduction=cfg.task_loss_reduction,
        shard=source.shard,
    )
    acting: Any = planner(cfg, model, "act", stage, task)
    if source.shard is not None:
        acting = distributed.SharedPlanner(acting)
    if cfg.workers.collection:
        return workers.actor(cfg, task, stage, acting, model, replay), source, learn
    return Actor(games(cfg, task, stage), acting, replay), source, learn
