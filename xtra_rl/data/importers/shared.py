"""What all importers share: the game, frames in our layout, and how far an import is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np
import torch

from xtra_rl.envs.tasks import TaskSpec, get_task
from xtra_rl.training.progress import progress


class OnProgress(Protocol):
    """Anything that counts, e.g. :class:`xtra_rl.training.progress.Progress`."""

    def update(self, n: int = 1) -> Any:
        """Count ``n`` more, rows or episodes."""


def atari_task(task: str | TaskSpec) -> TaskSpec:
    """The task of that name.

    Raises:
        ValueError: if it is unknown or not an Atari game.
    """
    spec = get_task(task)
    if spec.ale_name is None:
        raise ValueError(
            f"task {spec.name!r} is not an Atari game, the public data is; name the game it is of"
        )
    return spec


def progress_or(
    on_progress: OnProgress | None, total: int, *, description: str, unit: str
) -> AbstractContextManager[OnProgress]:
    """The caller's own display, or a new one if there is none."""
    if on_progress is not None:
        return nullcontext(on_progress)
    return progress(total, description=description, unit=unit)


def convert_frames(
    frames: np.ndarray, *, image_size: int | None = None, grayscale: bool = False
) -> np.ndarray:
    """Frames ``[T, C, H, W]`` uint8, made grey and resized as asked, in this order.

    Grey is the luminance of ITU-R BT.601, which is also ALE's up to rounding. Resizing averages over areas.

    Args:
        frames: ``[T, C, H, W]`` uint8, RGB or grey.
        image_size: new height and width; None keeps them.
        grayscale: whether RGB becomes grey.
    """
    grey = grayscale and frames.shape[1] == 3
    size = frames.shape[2:] if image_size is None else (image_size, image_size)
    if not grey and frames.shape[2:] == size or len(frames) == 0:
        return frames
    # A copy, for frames read from a file cannot be written to and torch warns of that.
    values = torch.tensor(frames, dtype=torch.float32)
    if grey:
        weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
        # Rounded before resizing too, as if grey frames had been recorded.
        values = (values * weights).sum(1, keepdim=True).round()
    if frames.shape[2:] != size:
        values = torch.nn.functional.interpolate(values, size, mode="area")
    return values.round().clamp(0, 255).byte().numpy()
