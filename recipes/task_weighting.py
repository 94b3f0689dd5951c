"""From a config to the rule by which cross tasks are weighed."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

from xtra_rl.recipes import common
from xtra_rl.training.seeding import derive_seed
from xtra_rl.transfer import TaskWeighting, make_task_weighting


def task_weighting(cfg: DictConfig, tasks: Sequence[str]) -> TaskWeighting | None:
    """The rule for these cross tasks; None where there are none or ``task_weights=false`` leaves them at 1.

    Raises:
        ValueError: if the rule is unknown.
    """
    if not tasks or not cfg.task_weights:
        return None
    settings, seed = common.plain(cfg.task_weight_schedule), derive_seed(cfg.seed, "task weighting")
    return make_task_weighting(cfg.task_weighting, tasks, settings=settings, seed=seed)
