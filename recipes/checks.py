"""Whether stored data and models are of the frames and actions that a config asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def _made_with(cfg: DictConfig, scale: str | None) -> str:
    if scale in (None, cfg.scale):
        return "the scale or env settings it was made with"
    return f"scale={scale}, at which it was made"


def check_background(
    cfg: DictConfig, env_settings: Mapping[str, Any], what: str, scale: str | None = None
) -> None:
    """Refuse data or a model of frames with their background where the config asks for none, and the reverse."""
    has, asked = bool(env_settings.get("subtract_background", False)), cfg.env.subtract_background
    if has != asked:
        raise ValueError(
            f"{what} is of frames {'without' if has else 'with'} their background and the config asks for"
            f" env.subtract_background={str(asked).lower()}; pass {_made_with(cfg, scale)}"
        )


def check_frames(cfg: DictConfig, shape: Sequence[int], task: str) -> None:
    """Refuse a game of the user's own whose frames are not those that networks are built for."""
    if tuple(shape) != (asked := common.frame_shape(cfg)):
        channels, height, width = shape
        raise ValueError(
            f"task {task!r} gives frames of {channels} x {height} x {width}, and networks are built for"
            f" {' x '.join(map(str, asked))}; pass env.image_size and env.grayscale that fit, or change the game's"
        )


def check_student(
    cfg: DictConfig, student: WorldModel, about: Mapping[str, Any], path: Path, num_actions: int
) -> None:
    """Refuse a student of frames without their background or of another action head than the target's model has."""
    check_background(cfg, about.get("env", {}), f"student {str(path)!r}", about.get("scale"))
    if student.num_actions != num_actions:
        raise ValueError(
            f"student {str(path)!r} has a head of {student.num_actions} actions, the target one of {num_actions};"
            f" register a game of your own with num_actions={student.num_actions} and action_ids=[...], the ones it has"
        )


def check_fits(
    cfg: DictConfig, model: WorldModel | RainbowNetwork, task: TaskSpec, checkpoint: str | Path
) -> None:
    """Refuse a model that was built for other frames or another action head than this config's."""
    about = read_model_notes(checkpoint).metadata
    scale = about.get("scale")
    check_background(cfg, about.get("env", {}), f"checkpoint {str(checkpoint)!r}", scale)
    wanted = input_sizes(cfg, task)
    wrong = {
        name: (model.config[name], value) for name, value in wanted.items() if model.config[name] != value
    }
    if wrong:
        text = ", ".join(
            f"{name} {has} and the config asks for {asks}" for name, (has, asks) in wrong.items()
        )
        raise ValueError(f"the checkpoint was trained with {text}; pass {_made_with(cfg, scale)}")
