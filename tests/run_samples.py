"""Run directories as the recipes write them, for the tests of the run tools."""

from __future__ import annotations

from pathlib import Path

from xtra_rl.training.logging import RunLogger
from xtra_rl.training.run import RunDirectory


def config(**changes):
    """A few of the settings of a run, nested as in the recipes."""
    settings = {
        "target": "alien",
        "scale": "smoke",
        "seed": 0,
        "cross_task": True,
        "freeze": [],
        "env": {"image_size": 32, "sticky": 0.0},
        "search": {"algorithm": "gumbel", "num_simulations": 4, "discount": 0.98},
        "eval": {"episodes": 2, "max_steps": 40},
        "finetune": {"env_steps": 400},
        "run_dir": "somewhere",
    }
    return settings | changes


def summary(settings, returns=(220.0, 280.0), **changes):
    """What a finished run of these settings says."""
    results = {
        "recipe": "xtra_finetune",
        "scale": settings["scale"],
        "seed": settings["seed"],
        "target": settings["target"],
        "env_steps": 400,
        "train_steps": 100,
        "wall_seconds": 50.0,
        "eval/mode": "greedy",
        "eval/mean_return": sum(returns) / len(returns),
        "eval/hns": 0.5,
        "eval/returns": {"sampled": [100.0, 200.0], "greedy": list(returns)},
        "start/returns": {"greedy": [0.0, 20.0]},
        "baselines": {"random": 227.8},
        "checkpoint": "elsewhere/model",
    }
    return results | changes


def write_run(path: Path, *, finished=True, settings=None, recipe="xtra_finetune", **changes) -> RunDirectory:
    """A run directory with evaluations at 0, 200 and the end, losses and speeds; ``changes`` go into the summary."""
    run, settings = RunDirectory(path), settings or config()
    run.write_config(settings)
    run.write_manifest(recipe=recipe, config=settings, device="cpu", command_line=["recipe.py"])
    results, task = summary(settings, **changes), settings["target"]
    with RunLogger(path) as logger:
        for env_step, score in ((0, 10.0), (200, 250.0)):
            metrics = {f"eval/{task}/return": score, f"eval/{task}/hns": score / 500}
            log(logger, metrics | {"loss/total": 1 / (1 + env_step)}, env_step)
            logger.log({"throughput/act_ms_per_train_step": score}, env_step=env_step, train_step=1)
        if finished:
            log(logger, last_evaluation(results), results["env_steps"])
    if finished:
        run.write_summary(results)
    return run


def log(logger, metrics, env_step):
    """Four env steps are one train step."""
    logger.log(metrics, env_step=env_step, train_step=env_step // 4)


def last_evaluation(results):
    """What ``metrics.csv`` ends with if ``results`` are the summary."""
    return {
        f"eval/{results['target']}/return{'' if mode == 'greedy' else f'_{mode}'}": sum(returns)
        / len(returns)
        for mode, returns in results["eval/returns"].items()
    }
