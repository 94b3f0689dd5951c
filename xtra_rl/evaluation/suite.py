"""The evaluations of one training run: before, during and after it, with the baselines they are read against."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tensordict import TensorDictBase

from xtra_rl.envs import get_task
from xtra_rl.evaluation.baselines import best_constant_action, random_returns
from xtra_rl.evaluation.evaluate import EvaluationMode, EvaluationResult, evaluate
from xtra_rl.evaluation.metrics import task_human_normalized
from xtra_rl.training.progress import Progress, progress

BASELINES = ("random", "constant", "untrained")


@dataclass
class EvaluationSuite:
    """Plays one policy on one task again and again under the same protocol, and remembers the scores.

    Args:
        task: name of a registered task.
        policy: reads ``observation`` and ``action_mask``, writes ``action``.
        episodes: games per evaluation and mode.
        max_steps: env steps per game.
        env_kwargs: further arguments of :func:`~xtra_rl.envs.make_env`.
        num_envs: games played at once.
        modes: ``"greedy"`` (argmax, no noise, the paper's) and/or ``"sampled"``.
        seed: of the first environment.

    Attributes:
        history: env step and result by mode of each :meth:`play`.
        baselines: mean return by name.

    Example:
        >>> import torch
        >>> from xtra_rl.evaluation.baselines import RandomPolicy
        >>> policy, env = RandomPolicy(torch.Generator().manual_seed(0)), {"image_size": 36, "grayscale": True}
        >>> suite = EvaluationSuite("Pong", policy, episodes=2, max_steps=10, env_kwargs=env)
        >>> suite.measure_baselines(["random"]), suite.play(0)["eval/Pong/return"]
        ({'random': 0.0}, 0.0)
        >>> [row["length"] for row in suite.rows()]
        [10, 10]
    """

    task: str
    policy: Callable[[TensorDictBase], TensorDictBase]
    episodes: int = 32
    max_steps: int | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_envs: int | None = None
    modes: Sequence[EvaluationMode] = ("greedy",)
    seed: int = 0
    history: list[tuple[int, Mapping[EvaluationMode, EvaluationResult]]] = field(default_factory=list)
    baselines: dict[str, float] = field(default_factory=dict)

    def _options(self, episodes: int) -> dict[str, Any]:
        return {
            "num_episodes": episodes,
            "env_kwargs": self.env_kwargs,
            "max_steps": self.max_steps,
            "seed": self.seed,
            "num_envs": self.num_envs,
        }

    def _bar(self, label: str, episodes: int) -> Progress[Any]:
        return progress(episodes, description=f"evaluate {self.task} {label}", unit="episode")

    def _evaluate(
        self, policy: Any, mode: EvaluationMode, label: str, record_frames: int = 0
    ) -> EvaluationResult:
        with self._bar(label, self.episodes) as bar:
            return evaluate(
                policy,
                self.task,
                mode=mode,
                record_frames=record_frames,
                progress=bar,
                **self._options(self.episodes),
            )

    def measure_baselines(
        self, names: Sequence[str], untrained: Callable[[TensorDictBase], TensorDictBase] | None = None
    ) -> dict[str, float]:
        """Scores without learning: random actions, the best single action, an untrained network with the same search.

        Args:
            names: any of ``random``, ``constant``, ``untrained``.
            untrained: policy over a fresh network, needed for the last.

        Raises:
            ValueError: for an unknown name, or ``untrained`` without a policy.
        """
        for name in names:
            if name == "random":
                with self._bar("random", self.episodes) as bar:
                    result = random_returns(self.task, progress=bar, **self._options(self.episodes))
                self.baselines[name] = result.mean_return
            elif name == "constant":
                # Two games for every legal action: enough for a baseline that an agent must leave behind clearly.
                with self._bar("constant actions", 2 * len(get_task(self.task).action_ids)) as bar:
                    best = best_constant_action(self.task, progress=bar, **self._options(2))
                self.baselines[name] = best.result.mean_return
            elif name == "untrained" and untrained is not None:
                self.baselines[name] = self._evaluate(untrained, self.modes[-1], "untrained").mean_return
            else:
                raise ValueError(f"baselines names {name!r}; expected a subset of {', '.join(BASELINES)}")
        return self.baselines

    def play(self, env_step: int, *, record_frames: int = 0) -> dict[str, float]:
        """Evaluate in every mode; returns metrics by name (``eval/<task>/return`` is the greedy score).

        Args:
            env_step: training position, for the history.
            record_frames: env steps of the first game to keep as pictures.
        """
        results: dict[EvaluationMode, EvaluationResult] = {}
        for mode in self.modes:
            keep = record_frames if mode == self.modes[-1] else 0
            results[mode] = self._evaluate(self.policy, mode, f"{mode} at {env_step}", keep)
        self.history.append((env_step, results))
        metrics = {}
        for mode, result in results.items():
            suffix = "" if mode == "greedy" else f"_{mode}"
            metrics[f"eval/{self.task}/return{suffix}"] = result.mean_return
            if (score := self.human_normalized(result.mean_return)) is not None:
                metrics[f"eval/{self.task}/hns{suffix}"] = score
        return metrics

    def rows(self) -> list[dict[str, Any]]:
        """Every game so far: env step of training, task, mode, number, raw return, env steps, whether it was cut."""
        return [
            {"env_step": env_step, "task": self.task, "mode": mode, "episode": number, "return": score}
            | {"length": length, "truncated": bool(cut)}
            for env_step, results in self.history
            for mode, result in results.items()
            for number, (score, length, cut) in enumerate(
                zip(result.returns, result.lengths, result.truncated, strict=True)
            )
        ]

    @property
    def is_best(self) -> bool:
        """Whether the last evaluation has the highest mean return so far, in the first mode."""
        scores = [results[self.modes[0]].mean_return for _, results in self.history]
        return scores[-1] > max(scores[:-1], default=-math.inf)

    def state_dict(self) -> dict[str, Any]:
        """Scores and baselines so far, without pictures, and the policy's random state."""
        history = [
            (env_step, {mode: (r.returns, r.lengths, r.truncated) for mode, r in results.items()})
            for env_step, results in self.history
        ]
        generator = getattr(self.policy, "generator", None)
        random_state = generator.get_state() if generator is not None else None
        return {"history": history, "baselines": dict(self.baselines), "generator": random_state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self.history = [
            (
                env_step,
                {mode: EvaluationResult(r, n, cut, None, mode) for mode, (r, n, cut) in results.items()},
            )
            for env_step, results in state["history"]
        ]
        self.baselines = dict(state["baselines"])
        if state["generator"] is not None:
            self.policy.generator.set_state(state["generator"])  # type: ignore[attr-defined]

    def human_normalized(self, score: float) -> float | None:
        """Human-normalised score, or ``None`` for a task without published human and random scores."""
        return task_human_normalized(self.task, score)
