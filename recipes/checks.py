"""Whether stored data and models are of the frames and actions that a config asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xtra_rl.envs import TaskSpec
from xtra_rl.models import RainbowNetwork, WorldModel
from xtra_rl.recipes import common
from xtra_rl.training.model_files import read_model_notes


def input_sizes(cfg: DictConfig, task: TaskSpec) -> dict[str, int]:
    """What a network must fit: the frames and the actions of a task."""
    return {
        "image_size": cfg.env.image_size,
        "image_channels": common.frame_shape(cfg)[0],
        "frame_stack": cfg.env.frame_stack,
        "num_actions": task.num_actions,
    }


def check_background(cfg: DictConfig, env_settings: Mapping[str, Any], what: str) -> None:
    """Refuse data or a model of frames with their background where the config asks for none, and the reverse."""
    has, asked = bool(env_settings.get("subtract_background", False)), cfg.env.subtract_background
    if has != asked:
        raise ValueError(
            f"{what} is of frames {'without' if has else 'with'} their background and the config asks for"
            f" env.subtract_background={str(asked).lower()}; pass the scale or env settings it was made with"
        )


def check_fits(
    cfg: DictConfig, model: WorldModel | RainbowNetwork, task: TaskSpec, checkpoint: str | Path
) -> None:
    """Refuse a model that was built for other frames or another action head than this config's."""
    trained_on = read_model_notes(checkpoint).metadata.get("env", {})
    check_background(cfg, trained_on, f"checkpoint {str(checkpoint)!r}")
    wanted = input_sizes(cfg, task)
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
