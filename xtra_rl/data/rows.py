"""The rows of a replay buffer: their keys, types and checks."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

_REQUIRED = {
    "pixels": torch.uint8,
    "action": torch.int64,
    "reward": torch.float32,
    "terminated": torch.bool,
    "truncated": torch.bool,
    "has_action": torch.bool,
}
_TARGETS = {
    "search_policy": torch.float32,
    "search_value": torch.float32,
    "teacher_policy": torch.float32,
    "teacher_value": torch.float32,
}
# The buffer counts these itself; a step that comes with the rows is checked, a stamp is replaced.
_COUNTED = {"step": torch.int32, "stamp": torch.int64}
_DTYPES = {**_REQUIRED, **_TARGETS, **_COUNTED}


_PER_ROW = {"pixels": 3, "search_policy": 1, "teacher_policy": 1}  # dimensions of a row; of the others, none


def conform_rows(
    rows: TensorDictBase, stored: TensorDictBase | None, *, num_actions: int | None = None
) -> TensorDict:
    """Return ``rows [n]`` with the types of the buffer.

    Args:
        rows: new rows.
        stored: the rows of the buffer, which fix keys and shapes; None before the first write.
        num_actions: A; actions must be below it.

    Raises:
        ValueError: naming missing and unknown keys, shapes that differ or are none of a row, an action out of range, or
            numbers that the type cannot hold.
    """
    names = set(rows.keys())
    expected = set(_REQUIRED) if stored is None else set(stored.keys()) - set(_COUNTED)
    allowed = set(_DTYPES) if stored is None else expected | set(_COUNTED)
    missing, unknown = sorted(expected - names), sorted(names - allowed)
    if missing or unknown or rows.ndim != 1:
        raise ValueError(
            f"rows of batch shape {tuple(rows.shape)} lack {missing} and have extra {unknown}; "
            f"pass a TensorDict [n] with {sorted(expected)}"
        )
    for name, value in rows.items():
        if value.ndim - 1 != _PER_ROW.get(name, 0):
            raise ValueError(_wrong_shape(name, value))
        if stored is not None and value.shape[1:] != stored[name].shape[1:]:
            raise ValueError(
                f"{name} has shape {tuple(value.shape[1:])}, the buffer holds "
                f"{tuple(stored[name].shape[1:])}; use a buffer of its own"
            )
    dtypes = _DTYPES | {"pixels": _frame_dtype(rows["pixels"], stored)}
    converted = {name: _convert(name, value, dtypes[name]) for name, value in rows.items()}
    action = converted["action"][converted["has_action"]]
    if (
        num_actions is not None
        and len(action)
        and not 0 <= int(action.min()) <= int(action.max()) < num_actions
    ):
        raise ValueError(
            f"action has {int(action.min())} to {int(action.max())}, the buffer takes 0 to {num_actions - 1}"
        )
    return TensorDict(converted, rows.shape)


def _wrong_shape(name: str, value: Tensor) -> str:
    expected = {"pixels": "[n, C, H, W]"}.get(name, "[n, A]" if name in _PER_ROW else "[n]")
    hint = ""
    if name == "action" and value.ndim == 2 and value.shape[1] > 1:
        hint = "; of one-hot actions pass argmax(-1)"
    elif name not in _PER_ROW and value.ndim == 2:
        hint = f"; pass {name}.squeeze(-1)"
    return f"{name} has shape {list(value.shape)}, expected {expected}{hint}"


def _convert(name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
    """On the CPU and in the buffer's type, which must hold what the value says."""
    converted = value.to("cpu", dtype)
    exact = dtype.is_floating_point or value.dtype == dtype
    if not exact and not torch.equal(converted.to(value.dtype), value.to("cpu")):
        raise ValueError(f"{name} is {value.dtype} with values that {dtype} cannot hold")
    return converted


def _frame_dtype(pixels: Tensor, stored: TensorDictBase | None) -> torch.dtype:
    """Bytes, or float32 for states that are no pictures; as bytes those would lose all they say."""
    dtype = torch.float32 if pixels.is_floating_point() else torch.uint8
    if stored is not None and dtype != stored["pixels"].dtype:
        raise ValueError(
            f"pixels is {pixels.dtype}, the buffer holds {stored['pixels'].dtype}; use a buffer of its own"
        )
    return dtype


def trajectory_rows(rows: TensorDictBase) -> TensorDict:
    """Return the rows ``[T + 1]`` of a whole trajectory with ``has_action`` and absent flags filled in.

    Raises:
        ValueError: if there is no row or a flag stands anywhere but at the last transition.
    """
    if len(rows) == 0:
        raise ValueError("rows is empty; pass at least the final observation")
    flags = {name: torch.zeros(len(rows), dtype=torch.bool) for name in ("terminated", "truncated")}
    filled = TensorDict({**flags, **dict(rows.items())}, [len(rows)])
    filled["has_action"] = torch.arange(len(rows)) < len(rows) - 1
    ended = filled["terminated"].bool() | filled["truncated"].bool()
    if bool(ended[:-2].any()) or bool(ended[-1]):
        raise ValueError(
            f"rows end a trajectory at row {int(ended.nonzero()[0])} of {len(rows)}; only the action before "
            "the final observation may, so pass the trajectories one by one"
        )
    return filled
