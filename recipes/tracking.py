"""What a run sends to its loggers: where it belongs among others, scores, every game, task weights, the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from omegaconf import DictConfig

from xtra_rl import distributed
from xtra_rl.evaluation.figures import read_metrics
from xtra_rl.evaluation.suite import EvaluationSuite
from xtra_rl.files import config_sha256
from xtra_rl.recipes import common
from xtra_rl.recipes.lifecycle import FREE_KEYS
from xtra_rl.training.logging import RunLogger
from xtra_rl.training.run import RunDirectory


def make_logger(
    cfg: DictConfig, run: RunDirectory, *, resume: bool = False, x_axis: Literal["env_step", "train_step"] = "env_step"
) -> RunLogger | distributed.SilentLogger:  # fmt: skip
    """Metrics of a described run, to its own files and to wandb or TensorBoard if asked for, on the main rank."""
    if not distributed.is_main():
        return distributed.SilentLogger()
    recipe, target = run.read_manifest()["recipe"], common.target_of(cfg)
    return RunLogger(
        run.path,
        loggers=common.loggers_of(cfg),
        config=common.plain(cfg),
        wandb_mode=cfg.wandb_mode,
        project=cfg.wandb_project,
        group=group_of(cfg, f"{recipe}-{target}-{cfg.scale}"),
        job_type=recipe,
        tags=[target, cfg.scale],
        x_axis=x_axis,
        resume=resume,
    )


def group_of(cfg: DictConfig, name: str) -> str:
    """The same for runs that differ in nothing but the seed and the machine: ``name`` and a hash of the rest."""
    settings = common.without_machine(common.plain(cfg))
    rest = {key: value for key, value in settings.items() if key not in (*FREE_KEYS, "seed")}
    return f"{name}-{config_sha256(rest | common.unusual_computation(settings))[:6]}"


def log_scores(
    run: RunDirectory, suite: EvaluationSuite, logger: RunLogger, scores: Mapping[str, float], env_step: int,
    train_step: int,
) -> None:  # fmt: skip
    """Log an evaluation, every game of all evaluations so far, and the course of the task weights in one chart."""
    logger.log(scores, env_step=env_step, train_step=train_step)
    logger.log_table("evaluations", suite.rows())
    logger.log_lines("task_weights", lambda: task_weights_of(run))


def task_weights_of(run: RunDirectory) -> dict[str, tuple[list[float], list[float]]]:
    """Env steps and weights of each cross task so far."""
    return {
        name.removeprefix("task_weight/"): (series.env_step.tolist(), series.value.tolist())
        for name, series in read_metrics(run.metrics).items()
        if name.startswith("task_weight/")
    }


def log_end(logger: RunLogger, summary: Mapping[str, Any]) -> None:
    """Log the numbers that a table of runs is sorted by: scores of the last evaluation, baselines, time."""
    named = {
        "end/return": summary["eval/mean_return"],
        "end/human_normalised": summary["eval/hns"],
        "end/wall_seconds": summary["wall_seconds"],
        **{f"baseline/{name}": score for name, score in summary["baselines"].items()},
    }
    logger.log_summary({name: value for name, value in named.items() if value is not None})
