"""Save and restore the rows of a replay buffer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

if TYPE_CHECKING:
    from xtra_rl.data.buffers import TrajectoryReplayBuffer


def save_buffer(buffer: TrajectoryReplayBuffer, path: str | Path) -> None:
    """Write rows, priorities, ring heads and generator state to the folder ``path``.

    Only stored rows are written, so a half-full buffer takes half of the disk. Not atomic: write to a fresh
    folder and rename it where a crash must not cost the previous snapshot.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(path / "rows", ignore_errors=True)
    buffer._sampler.dumps(path / "sampler")
    buffer._writer.dumps(path / "writer")
    if len(buffer) == 0:
        return
    stored = buffer._rows
    saved = stored[:1].expand(len(buffer)).memmap_like(prefix=path / "rows")
    for packed, place in _stored_slices(buffer):
        for name, leaf in stored.items():
            saved[name][packed].copy_(leaf[place])


def load_buffer(buffer: TrajectoryReplayBuffer, path: str | Path) -> None:
    """Restore what :func:`save_buffer` wrote into a buffer of the same capacity and environments.

    Raises:
        ValueError: if there is no snapshot, or it is of another buffer shape or has other columns.
    """
    path = Path(path)
    if not (path / "writer").is_dir():
        raise ValueError(f"no replay buffer was saved in {str(path)!r}; pass the folder given to dumps")
    rows = dict(TensorDict.load_memmap(path / "rows").items()) if (path / "rows").is_dir() else {}
    _check_columns(buffer, rows)
    buffer._writer.loads(path / "writer")
    buffer._sampler.loads(path / "sampler")
    if len(buffer) > 0:
        _put_rows(buffer, TensorDict(rows, [len(buffer)]))


def buffer_state(buffer: TrajectoryReplayBuffer) -> dict[str, Any]:
    """Return the whole buffer as tensors in memory."""
    rows = {}
    if len(buffer) > 0:
        for name, leaf in buffer._rows.items():
            rows[name] = torch.cat(
                [leaf[place].as_subclass(torch.Tensor) for _, place in _stored_slices(buffer)]
            )
    return {"rows": rows, "sampler": buffer._sampler.state_dict(), "writer": buffer._writer.state_dict()}


def load_buffer_state(buffer: TrajectoryReplayBuffer, state: dict[str, Any]) -> None:
    """Restore :func:`buffer_state`.

    Raises:
        ValueError: if it is of another buffer shape or has other columns.
    """
    _check_columns(buffer, state["rows"])
    buffer._writer.load_state_dict(state["writer"])
    buffer._sampler.load_state_dict(state["sampler"])
    if len(buffer) > 0:
        _put_rows(buffer, TensorDict(state["rows"], [len(buffer)]))


def _check_columns(buffer: TrajectoryReplayBuffer, rows: Mapping[str, Tensor]) -> None:
    """Refuse rows, empty if none are stored, that would leave some of the buffer's columns as they are."""
    if not rows or not buffer._storage.initialized:
        return
    saved, held = (
        {name: f"{name} {list(leaf.shape[1:])} {leaf.dtype}" for name, leaf in columns.items()}
        for columns in (rows, buffer._rows)
    )
    if saved != held:
        there, here = set(saved.values()), set(held.values())
        raise ValueError(
            f"the saved rows have other columns than this buffer, which was written to before: {sorted(there - here)}"
            f" only there, {sorted(here - there)} only here; load them into a new TrajectoryReplayBuffer"
        )


def _put_rows(buffer: TrajectoryReplayBuffer, rows: TensorDictBase) -> None:
    storage = buffer._storage
    if not storage.initialized:
        storage._init(rows[0].clone())
    for packed, place in _stored_slices(buffer):
        for name, leaf in rows.items():
            buffer._rows[name][place].copy_(leaf[packed])
        storage._len = place.stop


def _stored_slices(buffer: TrajectoryReplayBuffer) -> Iterator[tuple[slice, slice]]:
    """Yield, for each column in use, its rows in a packed array and in the storage."""
    size = buffer._writer.ring_size
    start = 0
    for column, count in enumerate(buffer._writer.written.clamp(max=size).tolist()):
        if count:
            yield slice(start, start + count), slice(column * size, column * size + count)
        start += count
