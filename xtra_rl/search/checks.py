"""Checks of what a caller or a model hands to a search; each failure says what to change."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from xtra_rl.search.types import Embedding, RecurrentOutput


class NotFiniteError(ValueError):
    """What a network said is NaN or infinite."""


def check_roots(prior_logits: Tensor, value: Tensor, embedding: Embedding) -> None:
    """Check the initial inference; see :func:`xtra_rl.search.puct_search` for the shapes.

    Raises:
        ValueError: if a shape does not fit or a number is NaN.
    """
    if prior_logits.ndim != 2 or 0 in prior_logits.shape:
        raise ValueError(
            f"prior_logits has shape {list(prior_logits.shape)}, expected [B, A] with at least one root and "
            f"one action."
        )
    check_shape("value", value, list(prior_logits.shape[:1]))
    if isinstance(embedding, Tensor | TensorDictBase):
        shape = embedding.batch_size if isinstance(embedding, TensorDictBase) else embedding.shape
    else:
        raise ValueError(
            f"embedding is a {type(embedding).__name__}, expected a Tensor or a TensorDict: put several "
            f"tensors into one TensorDict with batch size [B]."
        )
    if list(shape[:1]) != list(prior_logits.shape[:1]):
        raise ValueError(
            f"embedding has batch shape {list(shape)}, expected it to begin with the {prior_logits.shape[0]} "
            f"roots of prior_logits."
        )
    if isinstance(embedding, TensorDictBase) and embedding.is_empty():
        raise ValueError(
            "embedding is an empty TensorDict, expected at least one tensor: add the latent state."
        )
    check_finite("value", value)
    if not bool((prior_logits < torch.inf).all()):
        raise NotFiniteError("prior_logits contains NaN or +inf: check the policy head that made it.")


def check_legal(prior_logits: Tensor, invalid_actions: Tensor | None) -> Tensor:
    """Mask of illegal root actions ``[B, A]``; every row must leave an action with a finite logit.

    Raises:
        ValueError: if it is no such mask.
    """
    if invalid_actions is None:
        invalid_actions = torch.zeros_like(prior_logits, dtype=torch.bool)
    check_shape("invalid_actions", invalid_actions, list(prior_logits.shape))
    if invalid_actions.dtype != torch.bool:
        raise ValueError(
            f"invalid_actions has dtype {invalid_actions.dtype}, expected torch.bool with True = illegal: "
            f"convert it with .bool()."
        )
    blocked = (invalid_actions | (prior_logits == -torch.inf)).all(dim=-1)
    if bool(blocked.any()):
        rows = blocked.nonzero().flatten().tolist()
        raise ValueError(
            f"invalid_actions leaves no legal action (or none with a finite prior logit) in rows {rows}: "
            f"every root needs at least one; drop finished environments before searching."
        )
    return invalid_actions


def check_shape(name: str, tensor: Tensor, expected: list[int]) -> None:
    """Require the exact shape ``expected``.

    Raises:
        ValueError: naming both shapes.
    """
    if list(tensor.shape) != expected:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, expected {expected}.")


def check_finite(name: str, tensor: Tensor) -> None:
    """Require that no entry is NaN or infinite.

    Raises:
        NotFiniteError: naming the argument.
    """
    if not bool(tensor.isfinite().all()):
        what = "NaN" if bool(tensor.isnan().any()) else "an infinite number"
        raise NotFiniteError(f"{name} contains {what}: check the network or the weights that made it.")


def check_at_least(name: str, value: Any, minimum: int) -> None:
    """Require an integer that is at least ``minimum``.

    Raises:
        ValueError: naming the argument and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} is {value!r}, expected an integer of at least {minimum}.")


def check_range(
    name: str, value: float, low: float, high: float = torch.inf, *, open_low: bool = False
) -> None:
    """Require ``low <= value <= high``, or ``low < value`` with ``open_low``.

    Raises:
        ValueError: naming the argument and its value.
    """
    if (low < value if open_low else low <= value) and value <= high:
        return
    lower = f"above {low}" if open_low else f"of at least {low}"
    upper = "" if high == torch.inf else f" and at most {high}"
    raise ValueError(f"{name} is {value!r}, expected a number {lower}{upper}.")


def check_recurrent_output(output: RecurrentOutput, batch_size: int, num_actions: int) -> None:
    """Check the shapes that ``recurrent_fn`` returned, which broadcasting would otherwise hide.

    Raises:
        ValueError: if it is no RecurrentOutput, or naming the shape.
    """
    if not all(hasattr(output, name) for name in RecurrentOutput._fields):
        raise ValueError(
            f"recurrent_fn returned a {type(output).__name__} first, expected a RecurrentOutput(reward, value,"
            " prior_logits), and the next embedding behind it."
        )
    if (
        output.reward.shape == output.value.shape == (batch_size,)
        and output.prior_logits.shape == (batch_size, num_actions)
    ):  # fmt: skip
        return
    check_shape("the reward returned by recurrent_fn", output.reward, [batch_size])
    check_shape("the value returned by recurrent_fn", output.value, [batch_size])
    check_shape("the prior_logits returned by recurrent_fn", output.prior_logits, [batch_size, num_actions])
