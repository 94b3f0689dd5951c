"""The two training loops: online, with a fixed ratio of updates to environment steps, and offline."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.stopwatch import Stopwatch


@dataclass
class Iteration:
    """Where a training loop stands after an iteration.

    Attributes:
        env_steps: agent steps so far; 0 offline.
        train_steps: optimiser steps so far.
        metrics: of the last optimiser step, empty if there was none.
        returns: raw scores of the games that ended in this iteration.
        position: how much of the loop is done: env steps, and optimiser steps that come without any.
    """

    env_steps: int
    train_steps: int
    position: int
    metrics: dict[str, Tensor | float] = field(default_factory=dict)
    returns: list[float] = field(default_factory=list)


def online_updates(
    *, env_steps: int, warmup_steps: int, replay_ratio: float = 1.0, extra_train_steps: int = 0
) -> int:
    """Optimiser steps that :func:`train_online` makes, counted from the start: adding up 0.3 loses one now and then.

    Args:
        env_steps: agent steps in all environments together.
        warmup_steps: agent steps before the first update.
        replay_ratio: optimiser steps per agent step after that.
        extra_train_steps: optimiser steps after the last agent step.

    Example:
        >>> online_updates(env_steps=24_000, warmup_steps=1_000, replay_ratio=0.25)
        5750
    """
    return math.floor(replay_ratio * max(env_steps - warmup_steps, 0) + 1e-6) + extra_train_steps


def update(source: BatchSource, learner: Learner, watch: Stopwatch) -> dict[str, Tensor | float]:
    """Draw a batch, train on it, hand its priorities back."""
    windows = watch.time("wait" if source.prefetches else "sample", source.draw)
    batch = watch.time("reanalyse", lambda: source.build(windows))
    metrics = learner.step(batch, watch)
    watch.time("sample", lambda: source.update_priority(batch))
    watch.train_steps += 1
    if source.ahead:
        metrics = {**metrics, "replay/staleness": float(source.staleness)}
    return metrics


def train_online(
    actor: Actor,
    source: BatchSource,
    learner: Learner,
    *,
    env_steps: int,
    warmup_steps: int,
    replay_ratio: float = 1.0,
    extra_train_steps: int = 0,
    watch: Stopwatch | None = None,
) -> Iterator[Iteration]:
    """Act, then learn, in one thread: updates per environment step are a number, not a race.

    Where the parts stand decides what comes next, so parts that were restored from a checkpoint go on as they would
    have.

    Args:
        actor: acts and fills the replay.
        source: draws batches from it.
        learner: trains on them.
        env_steps: agent steps to take in all environments together.
        warmup_steps: agent steps before the first update.
        replay_ratio: optimiser steps per agent step after that (1 as published).
        extra_train_steps: optimiser steps after the last environment step (20,000 in XTRA's diverse-games results).
        watch: collects wall time by phase.

    Yields:
        a :class:`Iteration` after every environment step of the batch, and after every extra optimiser step.

    Raises:
        ValueError: if a number is negative or there is nothing to do, or the learner has not taken the steps that the
            actor's env steps ask for: it has trained elsewhere.
    """
    if env_steps < 1 or warmup_steps < 0 or replay_ratio < 0 or extra_train_steps < 0:
        raise ValueError(
            f"env_steps={env_steps}, warmup_steps={warmup_steps}, replay_ratio={replay_ratio},"
            f" extra_train_steps={extra_train_steps}: expected at least one env step and nothing negative"
        )
    watch = watch or Stopwatch()

    def due() -> int:
        return online_updates(env_steps=actor.env_steps, warmup_steps=warmup_steps, replay_ratio=replay_ratio)

    most = due() + (extra_train_steps if actor.env_steps >= env_steps else 0)
    if not due() <= learner.steps <= most:
        raise ValueError(
            f"the learner has taken {learner.steps} steps, and {actor.env_steps} env steps ask for {due()}:"
            " pass one that has not trained elsewhere, or the one of these env steps"
        )
    while actor.env_steps < env_steps:
        updates = due()
        returns = watch.time("act", actor.step)
        watch.env_steps += actor.num_envs
        metrics: dict[str, Tensor | float] = {}
        for _ in range(due() - updates):
            metrics = update(source, learner, watch)
        metrics = {**metrics, **actor.search_metrics}
        yield Iteration(actor.env_steps, learner.steps, actor.env_steps, metrics, returns)
    while (extra := learner.steps - due()) < extra_train_steps:
        metrics = update(source, learner, watch)
        yield Iteration(actor.env_steps, learner.steps, actor.env_steps + extra + 1, metrics)


def train_offline(
    source: BatchSource, learner: Learner, *, train_steps: int, watch: Stopwatch | None = None
) -> Iterator[Iteration]:
    """Learn from stored data alone.

    Args:
        source: draws batches of stored data.
        learner: trains on them.
        train_steps: optimiser steps in the end. Those that the learner has taken count, so that one from a checkpoint
            goes on; for a second phase with the same learner pass ``learner.steps`` and more.
        watch: collects wall time by phase.

    Yields:
        a :class:`Iteration` after every optimiser step.

    Raises:
        ValueError: if ``train_steps`` is not positive.

    Example:
        A student of 18 actions learns from one stored game and its teacher:

        >>> from tensordict import TensorDict
        >>> from xtra_rl.data import TrajectoryReplayBuffer
        >>> rows = {"pixels": torch.zeros(9, 1, 36, 36, dtype=torch.uint8), "action": torch.zeros(9)}
        >>> rows |= {"reward": torch.ones(9), "terminated": torch.arange(9) == 7, "truncated": torch.zeros(9) > 0}
        >>> rows |= {"teacher_policy": torch.full((9, 18), 1 / 18), "teacher_value": torch.zeros(9)}
        >>> buffer = TrajectoryReplayBuffer(100, memmap=False)
        >>> _ = buffer.extend_trajectory(TensorDict(rows, [9]))
        >>> from xtra_rl.data import MultiTaskReplayBuffer
        >>> from xtra_rl.models import make_world_model
        >>> from xtra_rl.objectives import MuZeroLoss
        >>> from xtra_rl.targets import TeacherTargets
        >>> from xtra_rl.training.schedules import make_optimizer
        >>> targets = TeacherTargets(unroll_steps=2, td_steps=3, value_prefix_horizon=None)
        >>> source = BatchSource(MultiTaskReplayBuffer({"pong": buffer}, {"pong": 4}), {"pong": targets})
        >>> model = make_world_model(latent="vector", value_prefix=False, image_size=36, image_channels=1, channels=8)
        >>> learner = Learner(MuZeroLoss(model), make_optimizer(model, name="adamw", lr=1e-3), tasks=["pong"])
        >>> for now in train_offline(source, learner, train_steps=2):
        ...     print(now.train_steps, scalars(now.metrics)["loss/total"] > 0)
        1 True
        2 True
    """
    if train_steps < 1:
        raise ValueError(f"train_steps is {train_steps}; expected at least 1")
    watch = watch or Stopwatch()
    while learner.steps < train_steps:
        metrics = update(source, learner, watch)
        yield Iteration(0, learner.steps, learner.steps, metrics)


def scalars(metrics: dict[str, Tensor | float]) -> dict[str, float]:
    """Plain floats in the order given, in one transfer from each device: the actor's may live elsewhere."""
    values = {key: value for key, value in metrics.items() if not isinstance(value, Tensor)}
    by_device: dict[torch.device, dict[str, Tensor]] = defaultdict(dict)
    for key, value in metrics.items():
        if isinstance(value, Tensor):
            by_device[value.device][key] = value
    for tensors in by_device.values():
        stacked = torch.stack([value.detach().float() for value in tensors.values()])
        values |= dict(zip(tensors, stacked.tolist(), strict=True))
    return {key: float(values[key]) for key in metrics}
