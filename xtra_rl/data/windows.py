"""Which rows of the replay storage make up a window, and how frames are stacked.

Indices are computed by NumPy: a batch has a few hundred, and PyTorch's cost for each call would be most of the time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor


class WindowRows(NamedTuple):
    """Rows of windows that start at given root rows; ``W`` is the number of transitions of a window."""

    future: np.ndarray
    """``[B, W + 1]`` row of position 0.., the last available one repeated where the trajectory has ended."""
    history: np.ndarray
    """``[B, F - 1]`` rows before the root, oldest first, the first available one repeated."""
    observation_mask: np.ndarray
    """``[B, W + 1]`` bool: the row of position k exists in the trajectory of the root."""
    whole_stack: np.ndarray
    """``[B, W + 1]`` bool: it does, and so do all frames of its stack: none of them was overwritten."""


def window_rows(
    root: np.ndarray,
    step: np.ndarray,
    written: np.ndarray,
    ring_size: int,
    *,
    num_transitions: int,
    frame_stack: int,
) -> WindowRows:
    """Find the rows of windows in a storage of per-environment rings.

    Ring ``e`` owns rows ``e * ring_size .. (e + 1) * ring_size - 1``. A row belongs to the trajectory of the
    root iff its ``step`` is as far from the root's as the row is: a later trajectory restarts at 0 and cannot
    match.

    Args:
        root: ``[B]`` rows of position 0.
        step: ``[num_envs * ring_size]`` position of every row in its trajectory.
        written: ``[num_envs]`` how many rows each ring has ever received.
        ring_size: rows of one ring.
        num_transitions: W, length of the window in transitions.
        frame_stack: F; ``F - 1`` rows of history are returned.
    """
    ring, place = np.divmod(root, ring_size)
    count = written[ring]
    base, place = (ring * ring_size)[:, None], place[:, None]
    ahead = (count[:, None] - 1 - place) % ring_size
    behind = np.minimum(count, ring_size)[:, None] - 1 - ahead
    root_step = step[root].astype(np.int64)[:, None]

    offset = np.arange(num_transitions + 1)
    candidate = base + (place + offset) % ring_size
    exists = (offset <= ahead) & (step[candidate] == root_step + offset)
    reach = np.minimum(offset, exists.sum(1, keepdims=True) - 1)
    future = base + (place + reach) % ring_size

    reachable = behind + offset
    whole = exists & (reachable >= np.minimum(frame_stack - 1, root_step + offset))

    back = np.arange(frame_stack - 1, 0, -1)
    # Rows that were overwritten are gone: the oldest surviving row stands in for the start of the trajectory.
    back = np.minimum(back, np.minimum(root_step, behind))
    history = base + (place - back) % ring_size
    return WindowRows(future, history, exists, whole)


def gather_rows(leaf: Tensor, rows: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return ``leaf[rows]`` for rows of any shape by one flat ``index_select``, far faster than indexing."""
    # Stripping the memory-mapped subclass keeps the copy out of Python dispatch.
    plain = leaf.as_subclass(torch.Tensor)
    return torch.index_select(plain, 0, rows.reshape(-1), out=out).view(*rows.shape, *plain.shape[1:])


def as_array(leaf: Tensor) -> np.ndarray:
    """A tensor of the storage as an array that shares its memory, free of the memory-mapped subclass's dispatch."""
    return leaf.as_subclass(torch.Tensor).numpy()


def gather_window(
    stored: TensorDictBase, rows: WindowRows, *, unroll_steps: int, filler_action: np.ndarray
) -> dict[str, Tensor]:
    """Gather everything of windows but frames; what does not exist is 0, its action ``filler_action [B, W]``.

    Returns:
        The entries that :meth:`xtra_rl.data.buffers.TrajectoryReplayBuffer.sample_windows` lists.
    """
    exists = rows.observation_mask
    mask = np.ascontiguousarray(exists[:, 1:])
    steps, unrolled = rows.future[:, :-1], slice(0, unroll_steps + 1)
    window = {
        "action": np.where(mask, as_array(stored["action"])[steps], filler_action),
        "reward": np.where(mask, as_array(stored["reward"])[steps], np.float32(0)),
        "transition_mask": mask,
        "observation_mask": exists,
        "terminated": as_array(stored["terminated"])[steps] & mask,
    }
    for source in ("search", "teacher"):
        if (value := stored.get(f"{source}_value", None)) is not None:
            window[f"{source}_value"] = np.where(exists, as_array(value)[rows.future], np.float32(0))
        if (policy := stored.get(f"{source}_policy", None)) is not None:
            shown = as_array(policy)[rows.future[:, unrolled]]
            window[f"{source}_policy"] = np.where(exists[:, unrolled, None], shown, np.float32(0))
    return {name: torch.from_numpy(entry) for name, entry in window.items()}


def stack_frames(pixels: Tensor, frame_stack: int) -> Tensor:
    """Return every run of ``frame_stack`` frames as one observation, oldest first, without copying.

    Args:
        pixels: ``[B, P, C, H, W]`` contiguous consecutive frames, any dtype.
        frame_stack: F, from 1 to P.

    Returns:
        ``[B, P - F + 1, F * C, H, W]``, a view of ``pixels`` (overlapping: do not write into it).

    Raises:
        ValueError: if ``pixels`` is not five-dimensional or holds fewer than ``frame_stack`` frames.

    Example:
        >>> pixels = torch.arange(5).view(1, 5, 1, 1, 1)
        >>> stack_frames(pixels, 4).flatten(2)
        tensor([[[0, 1, 2, 3],
                 [1, 2, 3, 4]]])
    """
    if pixels.ndim != 5:
        raise ValueError(f"pixels has shape {tuple(pixels.shape)}; pass [B, P, C, H, W]")
    if not 1 <= frame_stack <= pixels.shape[1]:
        raise ValueError(
            f"frame_stack={frame_stack} must lie between 1 and the {pixels.shape[1]} frames of pixels; "
            "sample windows with the same frame_stack"
        )
    stacked = pixels.unfold(1, frame_stack, 1).permute(0, 1, 5, 2, 3, 4)
    return stacked.reshape(*stacked.shape[:2], -1, *stacked.shape[4:])
