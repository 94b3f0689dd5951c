"""Numbers that change over training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn


def piecewise(step: int, values: Mapping[float, float]) -> float:
    """Value of the last threshold that ``step`` has reached.

    Raises:
        ValueError: if it has reached none.

    Example:
        >>> piecewise(70_000, {0: 1.0, 60_000: 0.5, 90_000: 0.25})
        0.5
    """
    reached = [start for start in values if step >= start]
    if not reached:
        raise ValueError(f"a schedule has no value for step {step}: {dict(values)}; give it one from 0 on")
    return values[max(reached)]


def linear(step: int, start: float, end: float, steps: int) -> float:
    """Linear from ``start`` to ``end`` over ``steps``, then constant; EfficientZero's beta of prioritised replay.

    Args:
        step: training step, from 0; before it, ``start``.
        start: value at step 0.
        end: value from ``steps`` on.
        steps: training steps in between; 0 gives ``end`` after step 0.

    Example:
        >>> linear(60_000, 0.4, 1.0, 120_000)
        0.7
    """
    return start + (end - start) * min(max(step / max(steps, 1), 0.0), 1.0)


def warmup_factor(
    step: int,
    *,
    warmup_steps: int,
    decay: Literal["step", "cosine", "none"] = "step",
    decay_steps: int = 100_000,
    decay_rate: float = 0.1,
) -> float:
    """Factor on the learning rate: linear from 0 over the warm-up, then constant with decay.

    EfficientZero: warm-up over 1,000 steps (step 0 has rate 0), then times 0.1 every 100,000 steps counted after it.

    Args:
        step: training step, from 0.
        warmup_steps: training steps of the warm-up.
        decay: ``"step"``; ``"cosine"``, to 0 at ``decay_steps`` after the warm-up and 0 from there on; or ``"none"``.
        decay_steps: training steps between decays, or of the whole cosine.
        decay_rate: factor of the step decay.
    """
    if step < warmup_steps:
        return step / warmup_steps
    since = step - warmup_steps
    if decay == "step":
        return decay_rate ** (since // decay_steps)
    if decay == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(since / decay_steps, 1.0)))
    return 1.0


def make_optimizer(
    module: nn.Module,
    *,
    name: Literal["sgd", "adamw"] = "sgd",
    lr: float = 0.2,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
) -> torch.optim.Optimizer:
    """Optimiser over the parameters that train: SGD with momentum as published, or AdamW for short runs.

    The defaults are those of EfficientZero (arXiv:2111.00210). What requires no gradient, such as a component that
    :func:`~xtra_rl.transfer.freeze_components` froze, is left out. Both step in one fused kernel.

    Args:
        module: the module to train.
        name: ``"sgd"`` or ``"adamw"``.
        lr: learning rate at factor 1 of :func:`warmup_factor`, above 0.
        momentum: of SGD; AdamW takes PyTorch's betas.
        weight_decay: L2 penalty of SGD, decoupled decay of AdamW.

    Returns:
        The optimiser, with one parameter group.

    Raises:
        ValueError: if ``name`` is unknown, ``lr`` is not positive or everything is frozen.

    Example:
        >>> layers = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> _ = layers[0].requires_grad_(False)
        >>> optimizer = make_optimizer(layers, name="adamw", lr=1e-3)
        >>> len(optimizer.param_groups[0]["params"])
        2
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if lr <= 0:
        raise ValueError(f"lr is {lr}; expected a positive learning rate")
    if not parameters:
        raise ValueError("every component is frozen, so nothing can be trained; name fewer in freeze=[...]")
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)
    raise ValueError(f"optimiser name is {name!r}; expected 'sgd' or 'adamw'")
