"""Tasks and their environments. TorchRL is imported with the first environment, not with the table of tasks."""

import importlib
from typing import TYPE_CHECKING, Any

from xtra_rl.envs.tasks import (
    TASK_SETS,
    EnvFactory,
    TaskSpec,
    get_task,
    list_tasks,
    register_task,
    task_set,
    unregister_task,
)

if TYPE_CHECKING:
    from xtra_rl.envs.atari import make_atari_env
    from xtra_rl.envs.background import SubtractBackground, measure_background
    from xtra_rl.envs.factory import make_env
    from xtra_rl.envs.transforms import END_OF_LIFE, LegalActions, LifeLoss, StackFrames, StepLimit

__all__ = [
    "END_OF_LIFE",
    "TASK_SETS",
    "EnvFactory",
    "LegalActions",
    "LifeLoss",
    "StackFrames",
    "StepLimit",
    "SubtractBackground",
    "TaskSpec",
    "get_task",
    "list_tasks",
    "make_atari_env",
    "make_env",
    "measure_background",
    "register_task",
    "task_set",
    "unregister_task",
]

# AtariEnv was public once; make_atari_env makes it.
_MODULES = {"AtariEnv": "atari", "make_atari_env": "atari", "make_env": "factory"}
_MODULES |= dict.fromkeys(("SubtractBackground", "measure_background"), "background")
_MODULES |= dict.fromkeys(
    ("END_OF_LIFE", "LegalActions", "LifeLoss", "StackFrames", "StepLimit"), "transforms"
)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
