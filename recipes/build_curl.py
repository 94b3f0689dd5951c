"""From a config to CURL's parts: network, policy, learner, replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryReplayBuffer, even_quotas
from xtra_rl.envs import get_task
from xtra_rl.models import RainbowNetwork, RainbowPolicy
from xtra_rl.objectives import CurlLoss, CurlTarget
from xtra_rl.recipes import build, checks, common
from xtra_rl.targets import NStepTargets
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.model_files import load_into, read_model_notes
from xtra_rl.training.seeding import derive_seed, make_generator

STAGE = "curl"
"""Start of the ``stage`` that CURL's model directories name."""


def network(cfg: DictConfig, task: str, *names: str) -> RainbowNetwork:
    """The network for a task's action head; its initialisation depends on the seed and ``names``."""
    sizes = ("hidden", "noise_std", "atoms", "value_limit", "projection_out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(cfg.seed, "curl", *names))
        made = RainbowNetwork(
            **checks.input_sizes(cfg, get_task(task)),
            **{name: cfg.curl[name] for name in sizes},
        )
    return made.to(common.device_of(cfg))


def is_network(path: str | Path) -> bool:
    """Whether a model directory is one of CURL."""
    return str(read_model_notes(path).metadata.get("stage", "")).startswith(STAGE)


def load_network(cfg: DictConfig, path: str | Path) -> RainbowNetwork:
    """A trained network with the sizes it was built with."""
    made = RainbowNetwork(**read_model_notes(path).config)
    load_into(made, path)
    return made.to(common.device_of(cfg))


def policy(cfg: DictConfig, made: RainbowNetwork, *names: str) -> RainbowPolicy:
    """How a network acts; its randomness depends on the seed and ``names``."""
    return RainbowPolicy(made, epsilon=cfg.curl.epsilon, generator=make_generator(cfg.seed, "curl", *names))


def learner(cfg: DictConfig, made: RainbowNetwork, tasks: list[str], *names: str) -> Learner:
    """Loss, slow copies and optimiser around a network."""
    settings = cfg.curl
    target = CurlTarget(made, interval=settings.target_interval, momentum=settings.momentum)
    # One generator for views and noise, which the learner keeps in its checkpoints.
    generator = make_generator(cfg.seed, "curl learner", *names, device=common.device_of(cfg))
    return Learner(
        CurlLoss(made, target, contrastive_coef=settings.contrastive_coef, generator=generator),
        torch.optim.Adam(made.parameters(), lr=settings.lr, eps=settings.adam_eps, fused=True),
        tasks=tasks,
        target=target,
        reduction="mean",
        max_grad_norm=settings.max_grad_norm,
        frame_stack=cfg.env.frame_stack,
        augmentation=False,
        generator=generator,
        autocast=getattr(torch, cfg.autocast) if cfg.autocast else None,
        **common.plain(cfg.watchdog),
    )


def _targets(cfg: DictConfig, task: str) -> NStepTargets:
    return NStepTargets(
        get_task(task).action_mask.to(common.device_of(cfg)),
        td_steps=cfg.curl.td_steps,
        discount=cfg.curl.discount,
        clip_rewards=cfg.targets.clip_rewards,
        frame_stack=cfg.env.frame_stack,
    )


def _source(
    cfg: DictConfig, buffers: dict[str, TrajectoryReplayBuffer], quotas: dict[str, int]
) -> BatchSource:
    targets: dict[str, Any] = {task: _targets(cfg, task) for task in buffers}
    return build.batch_source(cfg, MultiTaskReplayBuffer(buffers, quotas), targets)


def offline_source(cfg: DictConfig, datasets: dict[str, Path]) -> BatchSource:
    """Batches with as many transitions of each dataset, by priority within it."""
    buffers = {task: build.offline_buffer(cfg, path, task, columns=()) for task, path in datasets.items()}
    return _source(cfg, buffers, even_quotas(list(datasets), cfg.batch_size))


def online(
    cfg: DictConfig, task: str, made: RainbowNetwork, stage: str
) -> tuple[Actor, BatchSource, Learner]:
    """CURL on one task."""
    env, replay = build.games(cfg, task, stage), build.replay_of(cfg, task, stage)
    actor = Actor(env, policy(cfg, made, "act", stage, task), replay)
    return actor, _source(cfg, {task: replay}, {task: cfg.batch_size}), learner(cfg, made, [task], stage)
