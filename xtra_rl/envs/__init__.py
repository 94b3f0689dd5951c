"""Tasks and their environments."""

from xtra_rl.envs.atari import AtariEnv, make_atari_env
from xtra_rl.envs.factory import make_env
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
from xtra_rl.envs.transforms import END_OF_LIFE, LegalActions, LifeLoss, StackFrames, StepLimit

__all__ = [
    "END_OF_LIFE",
    "TASK_SETS",
    "AtariEnv",
    "EnvFactory",
    "LegalActions",
    "LifeLoss",
    "StackFrames",
    "StepLimit",
    "TaskSpec",
    "get_task",
    "list_tasks",
    "make_atari_env",
    "make_env",
    "register_task",
    "task_set",
    "unregister_task",
]
