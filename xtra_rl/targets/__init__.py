"""Training targets: n-step values, value prefixes, reanalysed policies, teachers' predictions, actions of the data."""

from xtra_rl.targets.behaviour import BehaviourTargets
from xtra_rl.targets.memory import RootMemory
from xtra_rl.targets.n_step import NStepTargets
from xtra_rl.targets.reanalyze import ReanalyzeTargets
from xtra_rl.targets.teacher import TeacherTargets, teacher_columns
from xtra_rl.targets.value import absorbing_mask, n_step_values, reward_targets, td_steps_by_age

__all__ = [
    "BehaviourTargets",
    "NStepTargets",
    "ReanalyzeTargets",
    "RootMemory",
    "TeacherTargets",
    "absorbing_mask",
    "n_step_values",
    "reward_targets",
    "td_steps_by_age",
    "teacher_columns",
]
