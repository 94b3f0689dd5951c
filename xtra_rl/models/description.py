"""What a model on the disk says about itself beside its weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from xtra_rl.evaluation.metrics import TaskScore


@dataclass(frozen=True)
class ModelDescription:
    """Where a model comes from and what it scores; empty for a model that was built and not loaded.

    Attributes:
        tasks: games that the model has learnt from, the target first.
        scores: evaluations with every episode, one for each task and mode.
        env: arguments of :func:`~xtra_rl.envs.make_env` that the model was trained with.
        search: settings of the search that played the evaluations, by the names of the configs.
        metadata: all of the above and the rest as plain values, such as ``stage``, ``scale``, ``seed`` and ``run``.
    """

    tasks: tuple[str, ...] = ()
    scores: tuple[TaskScore, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)
    search: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> ModelDescription:
        """Read the metadata of a model directory.

        Raises:
            ValueError: if one of the attributes is there in another form.

        Example:
            >>> ModelDescription.from_metadata({"tasks": ["pong"], "env": {"grayscale": True}}).tasks
            ('pong',)
        """
        tasks, scores = metadata.get("tasks", []), metadata.get("scores", [])
        if not isinstance(tasks, list) or not all(isinstance(task, str) for task in tasks):
            raise ValueError(f"tasks is {tasks!r}; expected a list of names")
        for name in ("env", "search"):
            if not isinstance(metadata.get(name, {}), Mapping):
                raise ValueError(f"{name} is {metadata[name]!r}; expected settings by name")
        if not isinstance(scores, list):
            raise ValueError(f"scores is {scores!r}; expected a list")
        return cls(
            tasks=tuple(tasks),
            scores=tuple(map(_score, scores)),
            env=dict(metadata.get("env", {})),
            search=dict(metadata.get("search", {})),
            metadata=dict(metadata),
        )


def _score(row: Any) -> TaskScore:
    try:
        returns = tuple(map(float, row["returns"]))
        score = TaskScore(
            row["task"], row["mode"], float(row["mean_return"]), row["human_normalized"], returns
        )
        numbers = [score.mean_return, *returns]
        if score.human_normalized is not None:
            numbers.append(score.human_normalized)
        if not all(map(math.isfinite, numbers)) or not isinstance(score.task, str):
            raise ValueError(row)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"a score is {row!r}; expected task, mode, mean_return, human_normalized and the list returns"
        ) from error
    return score
