"""Settings that name one of a few things, checked before any work: a slip must not cost the hours of its inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from xtra_rl.evaluation.evaluate import EXPLORATION
from xtra_rl.evaluation.suite import BASELINES
from xtra_rl.models import COMPONENTS
from xtra_rl.recipes.updates import check_decay
from xtra_rl.search.backends import resolve_backend
from xtra_rl.training.dashboards import check_wandb
from xtra_rl.training.logging import check_loggers
from xtra_rl.training.session import parse_duration
from xtra_rl.transfer import task_weighting_names
from xtra_rl.transfer.components import check_component_names
from xtra_rl.transfer.task_weights import ESTIMATORS

#: Numbers that must be at least this.
_SMALLEST = {
    "num_envs": 1,
    "batch_size": 2,  # for BatchNorm
    "cross_batch_size": 1,
    "num_cross_tasks": 1,
    "log_every": 1,
    "target_interval": 1,
    "targets.unroll_steps": 1,
    "eval.every": 1,
    "eval.episodes": 1,
    "eval.num_envs": 1,
    "eval.max_steps": 1,
}

_ONE_OF: dict[str, tuple[Any, ...]] = {
    "autocast": ("bfloat16", None),
    "search.algorithm": ("puct", "gumbel"),
    "search.q_normalization": ("tree", "siblings"),
    "inference.dtype": ("float32", "bfloat16"),
    "optim.name": ("sgd", "adamw"),
    "optim.decay": ("step", "cosine", "none"),
    "collect.mode": tuple(EXPLORATION),
    "teacher.annotation": ("prior", "search"),
    "distill.targets": ("teacher", "reanalyze"),
    "targets.value_source": ("network", "search"),
    "teacher_targets.value_source": ("n_step", "teacher"),
    "task_loss_reduction": ("sum", "mean"),
    "task_weight_schedule.estimator": tuple(ESTIMATORS),
    "data_parallel.batch_norm": ("synchronised", "per_rank"),
}

_SOME_OF = {"eval.modes": tuple(EXPLORATION), "eval.baselines": BASELINES}


def check_choices(cfg: DictConfig, loggers: list[str], device: torch.device) -> None:
    """Refuse settings that a component would only refuse when it is made.

    Raises:
        ValueError: with the sentence of that component.
    """
    for key, least in _SMALLEST.items():
        if _is_there(cfg, key) and (value := OmegaConf.select(cfg, key)) < least:
            raise ValueError(f"{key} is {value}; expected at least {least}")
    for key, options in {**_ONE_OF, "task_weighting": task_weighting_names()}.items():
        if _is_there(cfg, key) and (value := OmegaConf.select(cfg, key)) not in options:
            raise ValueError(f"{key} is {value!r}; expected {_or(options)}")
    for key, options in _SOME_OF.items():
        for value in OmegaConf.select(cfg, key):
            if value not in options:
                raise ValueError(f"{key} names {value!r}; expected some of {', '.join(options)}")
    for key in ("freeze", "transfer"):
        check_component_names(cfg[key], COMPONENTS, key)
    check_loggers(loggers, cfg.wandb_mode)
    if "wandb" in loggers:
        check_wandb(cfg.wandb_mode)
    # In some recipes that is the path of a model to play.
    every = cfg.checkpoint.every if OmegaConf.is_dict(cfg.checkpoint) else None
    for duration in (cfg.budget, every):
        if duration is not None:
            parse_duration(duration)
    if cfg.optim.lr <= 0:
        raise ValueError(f"optim.lr is {cfg.optim.lr}; expected a positive learning rate")
    check_decay(cfg)
    _check_weighting(cfg)
    player = cfg.collect.policy
    if player not in ("efficientzero", "curl", "random") and not Path(player).exists():
        raise ValueError(
            f"collect.policy is {player!r}; expected efficientzero, curl, random or the path of a trained model"
        )
    resolve_backend(cfg.search.backend, device)


def _check_weighting(cfg: DictConfig) -> None:
    """Refuse settings of the task weights that nothing would read."""
    rule, estimator = cfg.task_weighting, cfg.task_weight_schedule.estimator
    if rule == "cosine":
        return
    for switch in ("task_weights", "cross_task"):
        if not cfg[switch]:
            raise ValueError(
                f"task_weighting={rule} has no effect with {switch}=false; leave one of them out"
            )
    if estimator != "fraction" and rule in ("soft_cosine", "constant"):
        raise ValueError(
            f"task_weight_schedule.estimator={estimator} has no effect with task_weighting={rule}, which has its own;"
            " leave one of them out (variant=official sets the estimator)"
        )


def _is_there(cfg: DictConfig, key: str) -> bool:
    """Whether this recipe has a section for the key; ``targets`` are games where a study is asked for."""
    section, _, _ = key.rpartition(".")
    return not section or OmegaConf.is_dict(OmegaConf.select(cfg, section))


def _or(options: tuple[Any, ...]) -> str:
    names = ["null" if option is None else str(option) for option in options]
    return " or ".join([", ".join(names[:-1]), names[-1]])
