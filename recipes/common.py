"""What the recipes share: from the config to the library's parts."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from tqdm.auto import tqdm

from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryDataset, TrajectoryReplayBuffer, even_quotas
from xtra_rl.envs import TaskSpec, get_task, make_env, task_set
from xtra_rl.evaluation.suite import EvaluationSuite
from xtra_rl.models import WorldModel, make_world_model
from xtra_rl.objectives import LaggingTarget, MuZeroLoss
from xtra_rl.search import GumbelMCTSPlanner, MCTSPlanner
from xtra_rl.targets import ReanalyzeTargets, TeacherTargets
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.checkpoint import load_into, load_model_weights, save_model
from xtra_rl.training.learner import Learner, NonFiniteLoss
from xtra_rl.training.logging import RunLogger
from xtra_rl.training.loop import Iteration, Stopwatch, scalars
from xtra_rl.training.run import RunDirectory
from xtra_rl.training.schedules import linear, make_optimizer, piecewise, warmup_factor
from xtra_rl.training.seeding import derive_seed, make_generator
from xtra_rl.transfer import TaskWeightScheduler

TEACHER_COLUMNS = ("teacher_policy", "teacher_value")
SCALES = ("smoke", "quick", "laptop", "workstation", "paper", "auto")


def launch(main: Callable[[], None]) -> None:
    """Run a Hydra main: resolve ``scale=auto`` (the default) first, since a config group cannot."""
    given = [argument for argument in sys.argv[1:] if argument.startswith("scale=")]
    if given in ([], ["scale=auto"]):
        scale = "workstation" if torch.cuda.is_available() else "quick"
        sys.argv = [sys.argv[0], *(a for a in sys.argv[1:] if a not in given), f"scale={scale}"]
        if not {"-h", "--help", "--cfg", "-c", "--hydra-help", "--info"} & set(sys.argv):
            found = "a GPU" if scale == "workstation" else "no GPU"
            print(
                f"scale=auto: found {found}, so scale={scale} (others: {', '.join(SCALES[:-1])})", flush=True
            )
    main()


def friendly(recipe: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """End with one sentence on a user's mistake, and with the whole traceback where HYDRA_FULL_ERROR=1."""

    @wraps(recipe)
    def wrapper(cfg: DictConfig) -> Any:
        try:
            prepare_process(cfg)
            return recipe(cfg)
        except (ValueError, FileNotFoundError, NonFiniteLoss) as error:
            if os.environ.get("HYDRA_FULL_ERROR", "0") == "1":
                raise
            sys.exit(f"error: {error}")

    return wrapper


def prepare_process(cfg: DictConfig) -> None:
    """Check what no component would see, set threads, quieten the libraries' chatter."""
    for key in ("num_envs", "batch_size", "cross_batch_size", "num_cross_tasks", "log_every"):
        if cfg[key] < 1:
            raise ValueError(f"{key} is {cfg[key]}; expected a positive number")
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    logging.getLogger("torchrl").setLevel(logging.WARNING)


def say(text: str) -> None:
    """A line for the person at the terminal, above any progress bar."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def show(cfg: DictConfig, bar: Any, now: Iteration) -> None:
    """Losses beside an offline stage's progress bar."""
    if now.train_steps % cfg.log_every == 0:
        metrics = scalars(now.metrics)
        bar.set_postfix(**{name: round(metrics[f"loss/{name}"], 3) for name in ("policy", "value", "reward")})


def beta(cfg: DictConfig, step: int, steps: int) -> float:
    """Exponent of the importance weights after ``step`` of ``steps``."""
    start, end = cfg.replay.beta
    return linear(step, start, end, steps)


def device_of(cfg: DictConfig) -> torch.device:
    """``device=auto`` takes a GPU if there is one."""
    if cfg.device != "auto":
        return torch.device(cfg.device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def plain(node: Any) -> dict[str, Any]:
    """A config node as plain Python data."""
    return OmegaConf.to_container(node, resolve=True)  # type: ignore[return-value]


def target_of(cfg: DictConfig) -> str:
    """Canonical name of the target task."""
    return get_task(cfg.target).name


def cross_tasks_of(cfg: DictConfig) -> list[str]:
    """The cross tasks: as listed, or the first of a task set without the target."""
    target = target_of(cfg)
    if cfg.cross_tasks is not None:
        tasks = [get_task(name).name for name in cfg.cross_tasks]
        if target in tasks or len(set(tasks)) < len(tasks) or not tasks:
            raise ValueError(
                f"cross_tasks is {tasks}; expected at least one task, each once, without target {target!r}"
            )
        return tasks
    name = cfg.task_set or get_task(target).category
    return list(task_set(name, without=target))[: cfg.num_cross_tasks]


def env_kwargs(cfg: DictConfig) -> dict[str, Any]:
    """Arguments of ``make_env`` for any task."""
    return plain(cfg.env)


def build_model(cfg: DictConfig, task: str, *names: str) -> WorldModel:
    """The world model for a task's action head; its initialisation depends on the seed and ``names``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(cfg.seed, "model", *names))
        model = make_world_model(
            image_size=cfg.env.image_size,
            image_channels=1 if cfg.env.grayscale else 3,
            frame_stack=cfg.env.frame_stack,
            num_actions=get_task(task).num_actions,
            **plain(cfg.model),
        )
    return model.to(device_of(cfg))


def load_model(cfg: DictConfig, path: str | Path) -> tuple[WorldModel, dict[str, Any]]:
    """A trained model with the sizes it was built with, and its metadata."""
    files = load_model_weights(path)
    model = make_world_model(**files.config)
    load_into(model, path)
    return model.to(device_of(cfg)).eval(), files.metadata


def save(path: Path, cfg: DictConfig, model: WorldModel, stage: str, tasks: list[str]) -> Path:
    """Write a model directory that says where it comes from."""
    about = {"tasks": tasks, "stage": stage, "scale": cfg.scale, "seed": cfg.seed, "env": plain(cfg.env)}
    return save_model(path, model, config=model.config, metadata=about)


def build_planner(cfg: DictConfig, model: WorldModel, *names: str) -> MCTSPlanner | GumbelMCTSPlanner:
    """Search over a model; its randomness depends on the seed and ``names``."""
    search, generator = cfg.search, make_generator(cfg.seed, "search", *names)
    shared: dict[str, Any] = {
        "num_simulations": search.num_simulations,
        "discount": search.discount,
        "generator": generator,
    }
    if search.algorithm == "gumbel":
        names_of = ("max_num_considered_actions", "rescale_floor", "root_logit_scale")
        return GumbelMCTSPlanner(model, **shared, **{name: search[name] for name in names_of})
    if search.algorithm == "puct":
        names_of = ("pb_c_init", "pb_c_base", "q_normalization", "value_delta_max")
        names_of += ("dirichlet_alpha", "exploration_fraction")
        return MCTSPlanner(model, **shared, **{name: search[name] for name in names_of})
    raise ValueError(f"search.algorithm is {search.algorithm!r}; expected 'puct' or 'gumbel'")


def set_temperature(cfg: DictConfig, planner: Any, train_step: int) -> None:
    """Acting temperature of pUCT by training step; Gumbel search keeps its own noise."""
    if cfg.search.algorithm == "puct":
        planner.temperature = piecewise(train_step, plain(cfg.search.temperature))


def reanalyze_targets(
    cfg: DictConfig, target: LaggingTarget, task: str, *names: str, **changes: Any
) -> ReanalyzeTargets:
    """Targets of a task that is learnt by search on the lagging network."""
    planner = build_planner(cfg, target.module, "reanalyze", task, *names)
    mask = get_task(task).action_mask.to(device_of(cfg))
    options = plain(cfg.targets) | changes
    return ReanalyzeTargets(
        planner, mask, discount=cfg.search.discount, frame_stack=cfg.env.frame_stack, **options
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


def build_learner(
    cfg: DictConfig,
    model: WorldModel,
    tasks: list[str],
    *names: str,
    target: LaggingTarget | None = None,
    task_weights: TaskWeightScheduler | None = None,
    reduction: str = "sum",
) -> Learner:
    """Loss, optimiser and schedules around a model."""
    optim = plain(cfg.optim)
    schedule = {key: optim.pop(key) for key in ("warmup_steps", "decay", "decay_steps", "decay_rate")}
    max_grad_norm = optim.pop("max_grad_norm")
    return Learner(
        MuZeroLoss(model, **plain(cfg.loss)),
        make_optimizer(model, **optim),
        tasks=tasks,
        lr_factor=partial(warmup_factor, **schedule),
        target=target,
        task_weights=task_weights,
        reduction=reduction,  # type: ignore[arg-type]
        max_grad_norm=max_grad_norm,
        frame_stack=cfg.env.frame_stack,
        augmentation=cfg.augmentation,
        generator=make_generator(cfg.seed, "augmentation", *names, device=device_of(cfg)),
        autocast=getattr(torch, cfg.autocast) if cfg.autocast else None,
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
    side = cfg.env.image_size
    dataset.check_frames((1 if cfg.env.grayscale else 3, side, side))
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


def loggers_of(cfg: DictConfig) -> list[str]:
    """``logger=wandb`` and ``logger=[csv,wandb]`` are both understood."""
    return [cfg.logger] if isinstance(cfg.logger, str) else list(cfg.logger)


def make_logger(cfg: DictConfig, run: RunDirectory) -> RunLogger:
    """Metrics of a run, to its own files and to wandb or TensorBoard if asked for."""
    return RunLogger(
        run.path,
        loggers=loggers_of(cfg),
        config=plain(cfg),
        wandb_mode=cfg.wandb_mode,
        project=cfg.wandb_project,
    )


def evaluation_suite(cfg: DictConfig, task: str, model: WorldModel) -> EvaluationSuite:
    """Evaluations of a model on a task as the config says; its search has its own randomness."""
    settings = cfg.eval
    return EvaluationSuite(
        task,
        build_planner(cfg, model, "evaluate", task),
        episodes=settings.episodes,
        max_steps=settings.max_steps,
        env_kwargs=env_kwargs(cfg),
        num_envs=settings.num_envs,
        modes=list(settings.modes),
    )


def check_fits(cfg: DictConfig, model: WorldModel, task: TaskSpec) -> None:
    """Refuse a model that was built for other frames or another action head than this config's."""
    wanted = {
        "image_size": cfg.env.image_size,
        "image_channels": 1 if cfg.env.grayscale else 3,
        "frame_stack": cfg.env.frame_stack,
        "num_actions": task.num_actions,
    }
    wrong = {
        name: (model.config[name], value) for name, value in wanted.items() if model.config[name] != value
    }
    if wrong:
        text = ", ".join(
            f"{name} {has} and the config asks for {asks}" for name, (has, asks) in wrong.items()
        )
        raise ValueError(
            f"the checkpoint was trained with {text}; pass the scale or env settings it was trained with"
        )


def task_weight_metrics(scheduler: TaskWeightScheduler | None) -> dict[str, float]:
    """Weights, and in a measuring window the mean cosines so far."""
    if scheduler is None:
        return {}
    weights = {f"task_weight/{task}": weight for task, weight in scheduler.weights.items()}
    return weights | {f"grad_cos/{task}": cosine for task, cosine in scheduler.mean_cosines.items()}


def throughput(watch: Stopwatch, train_steps: int) -> dict[str, float]:
    """Milliseconds per training step by phase, since the last call."""
    seconds = watch.read()
    return {
        f"throughput/{phase}_ms_per_train_step": 1e3 * s / max(train_steps, 1) for phase, s in seconds.items()
    }


def stop_on_bad_loss(
    loop: Iterator[Iteration], cfg: DictConfig, run: RunDirectory, model: WorldModel
) -> Iterator[Iteration]:
    """Pass a training loop on; on a loss that is not finite save the batch and the last good model, and say where."""
    try:
        yield from loop
    except NonFiniteLoss as error:
        # The learner raises before it touches the weights, so the model is still the last good one.
        model_path = save(run.checkpoints / "last-good", cfg, model, "finetune", [])
        batch_path = run.checkpoints / "bad-batch.pt"
        torch.save(error.batch.detach().cpu().to_dict(), batch_path)
        message = f"{error}; the run stops. Last good model: {model_path}; the batch: {batch_path}"
        raise NonFiniteLoss(message, error.batch) from error


def build_online(
    cfg: DictConfig,
    task: str,
    model: WorldModel,
    stage: str,
    cross: dict[str, TrajectoryReplayBuffer] | None = None,
    task_weights: TaskWeightScheduler | None = None,
) -> tuple[Actor, BatchSource, Learner]:
    """EfficientZero on one task, with cross tasks beside it if there are any."""
    device, cross = device_of(cfg), cross or {}
    env = make_env(task, cfg.num_envs, seed=derive_seed(cfg.seed, "env", stage, task), **env_kwargs(cfg))
    replay = TrajectoryReplayBuffer(
        cfg.replay.capacity,
        num_envs=cfg.num_envs,
        num_actions=get_task(task).num_actions,
        alpha=cfg.replay.alpha,
        beta=cfg.replay.beta[0],
        seed=derive_seed(cfg.seed, "replay", stage, task),
    )
    target = LaggingTarget(model, interval=cfg.target_interval, lag=cfg.target_lag)
    quotas = {task: cfg.batch_size} | (even_quotas(list(cross), cfg.cross_batch_size) if cross else {})
    buffers = MultiTaskReplayBuffer({task: replay, **cross}, quotas)
    targets = {task: reanalyze_targets(cfg, target, task, stage)} | dict.fromkeys(
        cross, teacher_targets(cfg, model)
    )
    learner = build_learner(
        cfg,
        model,
        [task, *cross],
        stage,
        target=target,
        task_weights=task_weights,
        reduction=cfg.task_loss_reduction,
    )
    actor = Actor(env, build_planner(cfg, model, "act", stage, task), replay, device=device)
    return actor, BatchSource(buffers, targets, device=device), learner
