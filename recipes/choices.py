"""Settings that name one of a few things, checked before any work: a slip must not cost the hours of its inputs."""

from __future__ import annotations

import torch
from omegaconf import DictConfig, OmegaConf

from xtra_rl.models import COMPONENTS
from xtra_rl.search.backends import resolve_backend
from xtra_rl.training.logging import check_loggers
from xtra_rl.training.session import parse_duration
from xtra_rl.transfer.components import check_component_names


def check_choices(cfg: DictConfig, loggers: list[str], device: torch.device) -> None:
    """Refuse settings that a component would only refuse when it is made.

    Raises:
        ValueError: with the sentence of that component.
    """
    for key in ("freeze", "transfer"):
        check_component_names(cfg[key], COMPONENTS, key)
    check_loggers(loggers, cfg.wandb_mode)
    every = (
        cfg.checkpoint.every if OmegaConf.is_dict(cfg.checkpoint) else None
    )  # else the path of a model to play
    for duration in (cfg.budget, every):
        if duration is not None:
            parse_duration(duration)
    if cfg.search.algorithm not in ("puct", "gumbel"):
        raise ValueError(f"search.algorithm is {cfg.search.algorithm!r}; expected 'puct' or 'gumbel'")
    resolve_backend(cfg.search.backend, device)
    if cfg.data_parallel.batch_norm not in ("synchronised", "per_rank"):
        raise ValueError(
            f"data_parallel.batch_norm is {cfg.data_parallel.batch_norm!r}; expected synchronised or per_rank"
        )
