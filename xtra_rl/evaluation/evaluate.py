"""Play episodes with a policy and return their scores: the evaluation protocol of EfficientZero and XTRA."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from tensordict import TensorDictBase
from torchrl.envs.common import EnvBase
from torchrl.envs.utils import set_exploration_type

from xtra_rl.envs.lockstep import EXPLORATION, Policy, act_unfinished
from xtra_rl.modules import evaluating

__all__ = ["EvaluationResult", "SupportsUpdate", "evaluate"]

EvaluationMode = Literal["greedy", "sampled"]


class SupportsUpdate(Protocol):
    """Anything that counts finished episodes, e.g. :class:`xtra_rl.training.progress.Progress`."""

    def update(self, n: int = 1) -> Any:
        """Count ``n`` more episodes."""


@dataclass(frozen=True)
class EvaluationResult:
    """Scores of an evaluation, one entry per episode, in the order of the environment seeds.

    Attributes:
        returns: sums of raw, unclipped rewards.
        lengths: agent steps.
        truncated: whether the episode was cut off (by the environment's limit or by ``max_steps``).
        frames: ``[T, H, W, 3]`` uint8, start of the first episode, or ``None`` if none were asked for.
        mode: ``"greedy"`` or ``"sampled"``.
    """

    returns: list[float]
    lengths: list[int]
    truncated: list[bool]
    frames: torch.Tensor | None
    mode: EvaluationMode

    @property
    def mean_return(self) -> float:
        """Mean over episodes, the number that the papers report."""
        return sum(self.returns) / len(self.returns)


def evaluate(
    policy: Policy,
    task: str,
    *,
    num_episodes: int = 32,
    env_kwargs: Mapping[str, Any] | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    mode: EvaluationMode = "greedy",
    num_envs: int | None = None,
    record_frames: int = 0,
    progress: SupportsUpdate | None = None,
    make_env: Callable[..., EnvBase] | None = None,
) -> EvaluationResult:
    """Play ``num_episodes`` whole games in lockstep and return their scores.

    EfficientZero (arXiv:2111.00210) and XTRA (arXiv:2210.10763): 32 environments, each with its own seed; a
    life lost does not end the episode; raw score; argmax of the search's visit counts, no noise. Each
    environment contributes its first episode only, so that short episodes are not counted more often.

    Args:
        policy: reads the environments' tensordict and writes ``action``; a module is run in eval mode.
        task: name of a registered task.
        num_episodes: number of episodes, one environment each.
        env_kwargs: further arguments of ``make_env``, e.g. ``{"image_size": 96}``.
        max_steps: agent steps after which an episode is cut off and counted as truncated; ``None`` leaves
            the limit to the environment (108 000 frames = 27 000 steps for Atari).
        seed: given to ``make_env``, which spreads it over its copies. A further round of environments gets
            ``seed`` plus the number of episodes before it, so scores depend on ``num_envs`` too.
        mode: ``"greedy"`` runs the policy under ``ExplorationType.DETERMINISTIC``, ``"sampled"`` under
            ``RANDOM``. An under-trained agent that is greedy can repeat one action for ever: report both.
        num_envs: environments that run at the same time; default all. Fewer need less memory and more time.
        record_frames: number of frames of the first episode to keep, at most.
        progress: told about every finished episode.
        make_env: called as ``make_env(task, num_envs, seed=..., episodic_life=False, **env_kwargs)``; default
            :func:`xtra_rl.envs.make_env`.

    Raises:
        ValueError: for an argument out of its range.
    """
    if mode not in EXPLORATION:
        raise ValueError(f"mode={mode!r} is unknown; known modes: {', '.join(EXPLORATION)}")
    for name, value in {"num_episodes": num_episodes, "max_steps": max_steps, "num_envs": num_envs}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
    env_kwargs = dict(env_kwargs or {})
    if env_kwargs.pop("episodic_life", False):
        raise ValueError(
            "env_kwargs has episodic_life=True, but scores are of whole games; leave it out for an evaluation"
        )
    make_env = make_env or default_make_env()
    group = min(num_envs or num_episodes, num_episodes)

    rounds = []
    with torch.no_grad(), set_exploration_type(EXPLORATION[mode]), evaluating(policy):
        for start in range(0, num_episodes, group):
            size = min(group, num_episodes - start)
            env = make_env(task, size, seed=seed + start, episodic_life=False, **env_kwargs)
            try:
                recorder = _Recorder(record_frames if start == 0 else 0)
                rounds.append((_play(policy, env, max_steps, recorder, progress), recorder))
            finally:
                env.close(raise_if_closed=False)
    returns, lengths, truncated = (
        torch.cat(parts).tolist() for parts in zip(*(scores for scores, _ in rounds))
    )
    return EvaluationResult(returns, lengths, truncated, rounds[0][1].video(), mode)


def _play(
    policy: Policy,
    env: EnvBase,
    max_steps: int | None,
    recorder: _Recorder,
    progress: SupportsUpdate | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """First episode of every environment: returns [N] float64, lengths [N] int64, truncated [N] bool."""
    td = env.reset()
    num_envs = env.batch_size[0]
    returns = torch.zeros(num_envs, dtype=torch.float64)
    lengths = torch.zeros(num_envs, dtype=torch.int64)
    truncated = torch.zeros(num_envs, dtype=torch.bool)
    active = torch.ones(num_envs, dtype=torch.bool)
    recorder.add(td)
    step = 0
    while True:
        step += 1
        transition, td = env.step_and_maybe_reset(act_unfinished(policy, td, active))
        after = transition["next"]
        done = after["done"].reshape(num_envs).cpu()
        returns += torch.where(active, after["reward"].reshape(num_envs).double().cpu(), 0.0)
        lengths += active
        if bool(active[0]):
            recorder.add(after)

        has_cut = "truncated" in after
        cut = after["truncated"] & ~after["terminated"] if has_cut else torch.zeros_like(done)
        out_of_time = max_steps is not None and step >= max_steps
        truncated |= active & (cut.reshape(num_envs).cpu() | (out_of_time & ~done))
        still_active = active & ~done if not out_of_time else torch.zeros_like(active)
        if progress is not None and (finished := int((active & ~still_active).sum())):
            progress.update(finished)
        active = still_active
        if not bool(active.any()):
            return returns, lengths, truncated


class _Recorder:
    """Keeps the first frames of the first environment."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: list[torch.Tensor] = []

    def add(self, td: TensorDictBase) -> None:
        if len(self._frames) >= self._limit:
            return
        if "pixels" not in td:
            raise ValueError(
                f"record_frames={self._limit}, but the environment has no 'pixels' [N, C, H, W]; "
                "pass record_frames=0"
            )
        self._frames.append(td.get("screen", td["pixels"])[0].detach().cpu().clone())

    def video(self) -> torch.Tensor | None:
        if not self._frames:
            return None
        frames = torch.stack(self._frames).permute(0, 2, 3, 1)  # [T, H, W, C]
        return frames.expand(*frames.shape[:3], 3).contiguous()


def default_make_env() -> Callable[..., EnvBase]:
    """The environments of the library, imported when first needed."""
    from xtra_rl.envs import make_env

    return make_env
