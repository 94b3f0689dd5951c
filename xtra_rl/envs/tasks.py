"""Tasks by name: what a game allows, how it is scored, and how to add one of your own."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from xtra_rl.envs.scores import ATARI_ROWS, TASK_SETS

if TYPE_CHECKING:
    from torch import Tensor
    from torchrl.envs.common import EnvBase

EnvFactory = Callable[[int, int, bool], "EnvBase"]
"""``(num_envs, seed, training) -> EnvBase`` of batch size ``[num_envs]``."""

NUM_ATARI_ACTIONS = 18


@dataclass(frozen=True)
class TaskSpec:
    """Everything the library needs to know about one task.

    Args:
        name: registry name; ALE's snake-case id for Atari games.
        action_ids: legal actions, as indices into a head of ``num_actions`` outputs.
        num_actions: A, the size of the policy head. All tasks of one model share it; 18 for Atari.
        random_score: mean return of a uniformly random policy, or None where unknown.
        human_score: mean return of a human tester, or None where unknown.
        category: kind of game.
        ale_name: ROM id for ale-py, None for a task that is not an Atari game.
        factory: builds the environment of a task that is not an Atari game.
    """

    name: str
    action_ids: tuple[int, ...]
    num_actions: int = NUM_ATARI_ACTIONS
    random_score: float | None = None
    human_score: float | None = None
    category: str = "custom"
    ale_name: str | None = None
    factory: EnvFactory | None = None

    @property
    def action_mask(self) -> Tensor:
        """Legal actions as ``[A]`` bool.

        >>> get_task("freeway").action_mask.nonzero().flatten()
        tensor([0, 2, 5])
        """
        import torch

        mask = torch.zeros(self.num_actions, dtype=torch.bool)
        mask[list(self.action_ids)] = True
        return mask


_REGISTRY: dict[str, TaskSpec] = {
    name: TaskSpec(
        name,
        row.action_ids,
        random_score=row.random_score,
        human_score=row.human_score,
        category=row.category,
        ale_name=name,
    )
    for name, row in ATARI_ROWS.items()
}


def _key(name: str) -> str:
    """Spelling without case, underscores and dashes: ``MsPacman`` and ``ms_pacman`` are the same task."""
    return re.sub(r"[\s_\-]", "", name).lower()


def _unknown(kind: str, name: str, known: Sequence[str]) -> ValueError:
    """Error that lists the known names and, if there is one, the nearest."""
    by_key = {_key(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_key(name), by_key, n=1)
    hint = f"; did you mean {by_key[close[0]]!r}?" if close else "."
    return ValueError(f"{kind} {name!r} is unknown{hint} Known: {', '.join(sorted(known))}.")


def get_task(name: str | TaskSpec) -> TaskSpec:
    """The registered task of that name; ALE's ids and the paper's spellings are understood.

    Raises:
        ValueError: if the task is unknown; the message lists the known tasks and the nearest name.

    >>> get_task("MsPacman").name
    'ms_pacman'
    """
    if isinstance(name, TaskSpec):
        return name
    if name in _REGISTRY:
        return _REGISTRY[name]
    by_key = {_key(known): known for known in _REGISTRY}
    if _key(name) not in by_key:
        raise _unknown("task", name, list(_REGISTRY))
    return _REGISTRY[by_key[_key(name)]]


def list_tasks(*, category: str | None = None) -> list[str]:
    """Names of all registered tasks, sorted, or only those of one category.

    >>> list_tasks(category="maze")
    ['alien', 'amidar', 'bank_heist', 'ms_pacman', 'wizard_of_wor']
    """
    return sorted(name for name, task in _REGISTRY.items() if category in (None, task.category))


def register_task(
    name: str,
    factory: EnvFactory,
    *,
    num_actions: int,
    action_ids: Sequence[int] | None = None,
    random_score: float | None = None,
    human_score: float | None = None,
    category: str = "custom",
    overwrite: bool = False,
) -> TaskSpec:
    """Make a TorchRL environment of your own available as a task.

    ``factory(num_envs, seed, training)`` returns an ``EnvBase`` of batch size ``[num_envs]`` that resets single
    environments by TorchRL's ``_reset`` mask and has these keys: ``pixels [N, C, H, W]`` uint8, the newest
    frame, or ``[N, D, 1, 1]`` float32, a state that is no picture; ``action [N]`` int64 (categorical) of no more than
    ``num_actions`` values, ``action_ids`` among them; ``reward [N, 1]`` float32 and ``done``, ``terminated`` ``[N, 1]``
    bool. ``truncated``, ``lives [N]`` and ``end-of-life [N, 1]`` are used if they are there, an ``action_mask [N, A]``
    has to be that of ``action_ids`` at all times.
    :func:`xtra_rl.envs.make_env` adds the frame stack, the step cap, a constant ``action_mask`` and an
    ``end-of-life`` that is set where ``lives`` drop. ``training`` is False for evaluation.

    Args:
        name: how the task is called from now on.
        factory: see above.
        num_actions: A, which all tasks of one model share; pass 18 to mix with Atari games.
        action_ids: the legal ones; all by default. No others are played, nor drawn as random actions.
        random_score: mean return of a random policy, for normalised scores.
        human_score: mean return of a reference player, for normalised scores.
        category: free text.
        overwrite: replace your own task of the same name instead of refusing.

    Raises:
        ValueError: if the name is taken or ``action_ids`` does not fit ``num_actions``.
    """
    taken = next((known for known in _REGISTRY if _key(known) == _key(name)), None)
    replaceable = overwrite and taken == name and _REGISTRY[name].factory is not None
    if taken is not None and not replaceable:
        raise ValueError(
            f"name {name!r} is already registered as {taken!r}; "
            "choose another, or replace your own task of the same name with overwrite=True."
        )
    if num_actions < 1:
        raise ValueError(
            f"num_actions must be at least 1, got {num_actions}; pass the size of the policy head."
        )
    legal = tuple(range(num_actions)) if action_ids is None else tuple(action_ids)
    if not legal or len(set(legal)) < len(legal) or min(legal) < 0 or max(legal) >= num_actions:
        raise ValueError(
            f"action_ids must be distinct ids in 0..{num_actions - 1}, got {legal}; "
            "raise num_actions or correct the ids."
        )
    task = TaskSpec(name, legal, num_actions, random_score, human_score, category, factory=factory)
    _REGISTRY[name] = task
    return task


def unregister_task(name: str) -> None:
    """Forget a task that :func:`register_task` added; the built-in games stay.

    Raises:
        ValueError: if there is no such task or it is built in.
    """
    task = get_task(name)
    if task.factory is None:
        raise ValueError(
            f"task {task.name!r} is built in and stays; only tasks added by register_task can be removed."
        )
    del _REGISTRY[task.name]


def task_set(name: str, *, without: str | None = None) -> tuple[str, ...]:
    """Names of a task set, without the target task if given (the paper's leave-one-out sets).

    Args:
        name: a key of :data:`TASK_SETS`.
        without: task to leave out. A target outside of the set changes nothing.

    Raises:
        ValueError: if the set or the task is unknown.

    >>> task_set("maze", without="MsPacman")
    ('alien', 'amidar', 'bank_heist', 'wizard_of_wor')
    """
    if name not in TASK_SETS:
        raise _unknown("task set", name, list(TASK_SETS))
    left_out = None if without is None else get_task(without).name
    return tuple(task for task in TASK_SETS[name] if task != left_out)
