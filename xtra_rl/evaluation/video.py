"""Write recorded frames as a video file."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


def write_video(
    path: str | os.PathLike[str],
    frames: torch.Tensor | np.ndarray,
    fps: float,
    *,
    min_side: int = 240,
) -> Path:
    """Write an MP4 (H.264), or a GIF beside it where no MP4 can be encoded, which is said by a warning.

    Args:
        path: file to write; parents are created, an old file is replaced when the new one is complete.
        frames: ``[T, H, W, 3]`` uint8.
        fps: pictures per second; real time is 15 for agent steps of four frames.
        min_side: small pictures are enlarged by a whole factor until their shorter side reaches this.

    Returns:
        The file that was written.

    Raises:
        ValueError: if ``frames`` or ``fps`` is not as described.

    Example:
        >>> import tempfile
        >>> frames = np.zeros((4, 48, 48, 3), np.uint8)  # such as evaluate(..., record_frames=4).frames
        >>> write_video(f"{tempfile.mkdtemp()}/play", frames, fps=15).name
        'play.mp4'
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(
            f"frames has shape {list(frames.shape)} and type {frames.dtype}; expected uint8 [T, H, W, 3] "
            f"with T >= 1"
        )
    if not fps > 0:
        raise ValueError(f"fps={fps} must be positive")
    path = Path(path).with_suffix(".mp4")
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = _enlarge(frames, min_side)
    try:
        return _write(path, lambda file: _encode_mp4(file, frames, fps))
    except Exception as error:
        warnings.warn(
            f"no MP4 could be encoded ({error}); writing a GIF instead", RuntimeWarning, stacklevel=2
        )
        return _write(path.with_suffix(".gif"), lambda file: _encode_gif(file, frames, fps))


def _enlarge(frames: np.ndarray, min_side: int) -> np.ndarray:
    factor = max(1, math.ceil(min_side / min(frames.shape[1:3])))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    # H.264 with 4:2:0 colours needs even sides.
    return np.pad(frames, ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0)), mode="edge")


def _write(path: Path, encode: Callable[[Path], None]) -> Path:
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        encode(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _encode_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    import imageio.v2 as imageio

    options: Any = {"codec": "libx264", "quality": 7, "macro_block_size": 2, "pixelformat": "yuv420p"}
    writer: Any = imageio.get_writer(path, format="FFMPEG", fps=fps, ffmpeg_log_level="error", **options)
    with writer:
        for frame in frames:
            writer.append_data(frame)


def _encode_gif(path: Path, frames: np.ndarray, fps: float) -> None:
    import imageio.v2 as imageio

    imageio.mimsave(path, list(frames), format="GIF", duration=1000 / fps, loop=0)
