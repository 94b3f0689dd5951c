"""From a config to the rule by which cross tasks are weighed."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from xtra_rl.recipes import common
from xtra_rl.training.seeding import derive_seed
from xtra_rl.transfer import GradVac, PCGrad, TaskWeighting, TaskWeightScheduler

#: What ``task_weighting=...`` understands.
RULES = ("cosine", "soft_cosine", "constant", "pcgrad", "gradvac")

#: Of them, those that change every step's gradients instead of weighing losses now and then.
SURGERY = {"pcgrad": PCGrad, "gradvac": GradVac}


def task_weighting(cfg: DictConfig, tasks: Sequence[str]) -> TaskWeighting | None:
    """The rule for these cross tasks; None where there are none or ``task_weights=false`` leaves them at 1.

    Raises:
        ValueError: if the rule is unknown, or is asked for together with ``task_weights=false``.
    """
    name, schedule = cfg.task_weighting, common.plain(cfg.task_weight_schedule)
    if name not in RULES:
        raise ValueError(f"task_weighting is {name!r}; expected one of {', '.join(RULES)}")
    if not cfg.task_weights and name != "cosine":
        raise ValueError(
            f"task_weighting={name} has no effect with task_weights=false; leave one of them out"
        )
    if not tasks or not cfg.task_weights:
        return None
    if name in SURGERY:
        seed = derive_seed(cfg.seed, "task weighting")
        return SURGERY[name](tasks, window=schedule["window"], seed=seed)
    estimators = {"soft_cosine": "soft", "constant": "constant"}
    return TaskWeightScheduler(tasks, **schedule | {"estimator": estimators.get(name, schedule["estimator"])})
