"""Which rows of the replay storage make up a window, and how frames are stacked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from tensordict import TensorDictBase
from torch import Tensor


class WindowRows(NamedTuple):
    """Rows of windows that start at given root rows; ``W`` is the number of transitions of a window."""

    future: Tensor
    """``[B, W + 1]`` row of position 0.., the last available one repeated where the trajectory has ended."""
    history: Tensor
    """``[B, F - 1]`` rows before the root, oldest first, the first available one repeated."""
    observation_mask: Tensor
    """``[B, W + 1]`` bool: the row of position k exists in the trajectory of the root."""


def window_rows(
    root: Tensor, step: Tensor, written: Tensor, ring_size: int, *, num_transitions: int, frame_stack: int
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
    base = torch.div(root, ring_size, rounding_mode="floor")
    place = root - base * ring_size
    count = written[base]
    base = base * ring_size
    ahead = (count - 1 - place) % ring_size
    behind = count.clamp(max=ring_size) - 1 - ahead
    root_step = step.index_select(0, root).long()

    offset = torch.arange(num_transitions + 1)
    candidate = base[:, None] + (place[:, None] + offset) % ring_size
    candidate_step = step.index_select(0, candidate.flatten()).view(candidate.shape)
    exists = (offset <= ahead[:, None]) & (candidate_step == root_step[:, None] + offset)
    reach = torch.minimum(offset, exists.sum(1, keepdim=True) - 1)
    future = base[:, None] + (place[:, None] + reach) % ring_size

    back = torch.arange(frame_stack - 1, 0, -1)
    # Rows that were overwritten are gone: the oldest surviving row stands in for the start of the trajectory.
    back = torch.minimum(back, torch.minimum(root_step, behind)[:, None])
    history = base[:, None] + (place[:, None] - back) % ring_size
    return WindowRows(future, history, exists)


def gather_rows(leaf: Tensor, rows: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Return ``leaf[rows]`` for rows of any shape by one flat ``index_select``, far faster than indexing."""
    # Stripping the memory-mapped subclass keeps the copy out of Python dispatch.
    plain = leaf.as_subclass(torch.Tensor)
    return torch.index_select(plain, 0, rows.reshape(-1), out=out).view(*rows.shape, *plain.shape[1:])


def gather_window(
    stored: TensorDictBase, rows: WindowRows, *, unroll_steps: int, filler_action: Tensor
) -> dict[str, Tensor]:
    """Gather everything of windows but frames; what does not exist is 0, its action ``filler_action [B, W]``.

    Returns:
        The entries that :meth:`xtra_rl.data.buffers.TrajectoryReplayBuffer.sample_windows` lists.
    """
    exists = rows.observation_mask
    mask = exists[:, 1:]
    steps = rows.future[:, :-1]
    window = {
        "action": torch.where(mask, gather_rows(stored["action"], steps), filler_action),
        "reward": gather_rows(stored["reward"], steps).masked_fill_(~mask, 0.0),
        "transition_mask": mask.contiguous(),
        "observation_mask": exists,
        "terminated": gather_rows(stored["terminated"], steps) & mask,
    }
    unrolled = slice(0, unroll_steps + 1)
    for source in ("search", "teacher"):
        if f"{source}_value" in stored:
            value = gather_rows(stored[f"{source}_value"], rows.future)
            window[f"{source}_value"] = value.masked_fill_(~exists, 0.0)
        if f"{source}_policy" in stored:
            policy = gather_rows(stored[f"{source}_policy"], rows.future[:, unrolled])
            window[f"{source}_policy"] = policy.masked_fill_(~exists[:, unrolled, None], 0.0)
    return window


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
