"""A small study with made-up scores, written by the library's own writers."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from xtra_rl.evaluation.video import write_video
from xtra_rl.studies import PlannedRun, Study, System, write_study
from xtra_rl.training import run as run_module
from xtra_rl.training.logging import RunLogger
from xtra_rl.training.run import RunDirectory

SYSTEMS = (
    System("efficientzero", "EfficientZero", "xtra_finetune", ("pretrained=false",), "efficientzero"),
    System("xtra", "XTRA", "xtra_finetune", ("pretrained=true",), "xtra"),
)
#: Score of each seed. Means by hand: EfficientZero 200 and 50, XTRA 300 and 100.
SCORES = {
    "efficientzero": {"alien": (100.0, 200.0, 300.0), "amidar": (50.0, 50.0, 50.0)},
    "xtra": {"alien": (250.0, 300.0, 350.0), "amidar": (80.0, 100.0, 120.0)},
}
CROSS = ("bank_heist", "ms_pacman")


def config(system, target, seed, *, scale="laptop", **changes):
    """Settings of a run, nested as in the recipes."""
    settings = {
        "target": target,
        "scale": scale,
        "seed": seed,
        "pretrained": system != "efficientzero",
        "cross_task": system != "efficientzero",
        "task_set": None,
        "env": {"frame_skip": 4, "sticky": 0.0, "noop_max": 30, "max_frames": 108000},
        "search": {"num_simulations": 8},
        "model": {"num_blocks": 1},
        "eval": {"episodes": 2, "max_steps": 500},
        "finetune": {"env_steps": 400},
        "run_dir": f"runs/{system}/{target}-s{seed}",
    }
    return settings | changes


def write_run(
    path,
    system,
    target,
    seed,
    score,
    *,
    finished=True,
    video=False,
    settings=None,
    recipe="xtra_finetune",
    **changes,
):
    """A run with three evaluations that rise to ``score``, the mean of its two last episodes."""
    settings = settings or config(system, target, seed)
    target, seed = settings["target"], settings["seed"]
    run = RunDirectory(path)
    run.write_config(settings)
    run.write_manifest(recipe=recipe, config=settings, device="cpu", command_line=["recipe.py"])
    summary = {
        "recipe": recipe,
        "scale": settings["scale"],
        "seed": seed,
        "target": target,
        "env_steps": 400,
        "train_steps": 100,
        "wall_seconds": 60.0,
        "eval/mode": "greedy",
        "eval/mean_return": score,
        "eval/hns": None,
        "eval/returns": {"greedy": [score - 10, score + 10], "sampled": [score / 2, score / 2]},
        "start/returns": {"greedy": [0.1 * score, 0.1 * score]},
        "baselines": {"random": 20.0 + seed, "constant": 10.0, "untrained": None},
        "checkpoint": "elsewhere/model",
    } | changes
    with RunLogger(path) as logger:
        for step, share in ((0, 0.1), (200, 0.5), (summary["env_steps"], 1.0)):
            metrics = {
                f"eval/{target}/return{'' if mode == 'greedy' else f'_{mode}'}": share
                * sum(returns)
                / len(returns)
                for mode, returns in summary["eval/returns"].items()
            }
            if settings["cross_task"]:
                metrics |= {
                    f"task_weight/{task}": 1 - share * (0.2 + 0.1 * i) for i, task in enumerate(CROSS)
                }
            logger.log(metrics, env_step=step, train_step=step // 4)
    if video:
        write_video(run.videos / "final.mp4", np.full((4, 32, 32, 3), 40 * seed, np.uint8), 15)
    if finished:
        run.write_summary(summary)
    return run


def write_sample(
    folder, *, scale="laptop", systems=SYSTEMS, scores=SCORES, video=False, title="Made-up study"
):
    """The study and all of its runs."""
    targets = tuple(dict.fromkeys(task for tasks in scores.values() for task in tasks))
    plans = [
        PlannedRun(
            system.name, target, seed, (*system.overrides, f"target={target}", f"seed={seed}"),
            f"runs/{system.name}/{target}-s{seed}",
        )
        for system in systems for target in targets for seed in range(len(scores[system.name][target]))
    ]  # fmt: skip
    figures = ("figure1", "figure6d", "figure8", "figure11", "figure14")
    seeds = tuple(range(max(len(values) for tasks in scores.values() for values in tasks.values())))
    study = Study(
        "table1", title, scale, ("table1", "table3"), figures, tuple(systems), targets, seeds, tuple(plans)
    )
    write_study(folder, study)
    for plan in plans:
        settings = config(plan.system, plan.target, plan.seed, scale=scale)
        score = scores[plan.system][plan.target][plan.seed]
        write_run(
            Path(folder) / plan.run_dir, plan.system, plan.target, plan.seed, score, settings=settings, video=video
        )  # fmt: skip
    return study


def fast_manifests(monkeypatch):
    """Ask Git and the installed packages once instead of for each run."""
    versions = functools.cache(run_module.package_versions)
    monkeypatch.setattr(run_module, "package_versions", versions)
    monkeypatch.setattr(run_module, "git_commit", lambda: "0123456789abcdef")
