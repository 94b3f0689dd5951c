"""Cross-task transfer: task weights from gradient agreement, component transfer and freezing."""

from xtra_rl.transfer.components import TransferReport, freeze_components, transfer_components
from xtra_rl.transfer.gradients import (
    gradient_cosines,
    gradient_gram,
    gram_cosines,
    reached_parameters,
    set_combined_gradient,
    task_gradients,
)
from xtra_rl.transfer.rules import make_task_weighting, register_task_weighting, task_weighting_names
from xtra_rl.transfer.surgery import GradVac, PCGrad
from xtra_rl.transfer.task_weights import TaskWeightScheduler, sample_weights, task_coefficients
from xtra_rl.transfer.weighting import TaskWeighting

__all__ = [
    "GradVac",
    "PCGrad",
    "TaskWeightScheduler",
    "TaskWeighting",
    "TransferReport",
    "freeze_components",
    "gradient_cosines",
    "gradient_gram",
    "gram_cosines",
    "make_task_weighting",
    "register_task_weighting",
    "sample_weights",
    "reached_parameters",
    "set_combined_gradient",
    "task_coefficients",
    "task_gradients",
    "task_weighting_names",
    "transfer_components",
]
