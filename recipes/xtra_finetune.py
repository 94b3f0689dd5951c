"""XTRA: learn a new game online, starting from a student of other games and training on those games beside it.

arXiv 2210.10763, stage 2. Datasets, teachers and the student are used if given or found, and built at the same scale
if missing, so this one command runs the whole method. Needs: minutes on two CPU cores at scale=quick (the default
without a GPU); a GPU from scale=workstation on. Commands:

    python recipes/xtra_finetune.py
    python recipes/xtra_finetune.py target=assault task_set=shooter scale=laptop seed=1 logger=[csv,wandb]
    python recipes/xtra_finetune.py cross_task=false pretrained=false        EfficientZero from scratch
    python recipes/xtra_finetune.py task_weights=false                       the paper's ablations (Table 1)
    python recipes/xtra_finetune.py freeze=[representation] transfer=[representation,dynamics]
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from xtra_rl.models import WorldModel
from xtra_rl.recipes import build, common
from xtra_rl.recipes.finish import already_finished, finish, summarise
from xtra_rl.recipes.inputs import Annotated, Inputs
from xtra_rl.training.loop import Stopwatch, scalars, train_online
from xtra_rl.training.progress import progress
from xtra_rl.training.run import RunDirectory
from xtra_rl.transfer import TaskWeightScheduler, freeze_components, transfer_components


def gather_inputs(cfg: DictConfig) -> tuple[Path | None, Annotated]:
    """The student and the annotated datasets of the cross tasks, as far as this variant needs them."""
    inputs = Inputs(cfg)
    student = inputs.student() if cfg.pretrained else None
    datasets = {task: inputs.annotated(task) for task in common.cross_tasks_of(cfg)} if cfg.cross_task else {}
    return student, datasets


def initial_model(cfg: DictConfig, target: str, student: Path | None) -> WorldModel:
    """The model to finetune: components of the student where asked for, the rest fresh."""
    model = build.world_model(cfg, target, "finetune")
    freeze_components(model, list(cfg.freeze))
    if student is not None:
        pretrained, metadata = build.load_model(cfg, student)
        report = transfer_components(pretrained, model, list(cfg.transfer))
        common.say(f"transfer from {student} ({', '.join(metadata.get('tasks', ['?']))}):\n{report}")
    return model


def train(
    cfg: DictConfig, run: RunDirectory, target: str, model: WorldModel, datasets: Annotated
) -> dict[str, Any]:
    """Finetune online with the cross tasks beside the target; returns the summary."""
    settings, started = cfg.finetune, time.time()
    scheduler = TaskWeightScheduler(list(datasets), **common.plain(cfg.task_weight_schedule))
    scheduler = scheduler if cfg.task_weights and datasets else None
    cross = build.annotated_buffers(cfg, datasets)
    actor, source, learner = build.online(cfg, target, model, "finetune", cross, scheduler)
    watch, logged, due = Stopwatch(), 0, cfg.eval.every
    save = partial(build.save, cfg=cfg, model=model, stage="finetune", tasks=[target, *datasets])

    with common.make_logger(cfg, run) as logger:
        suite = build.evaluation_suite(cfg, target, model)
        untrained = None
        if "untrained" in cfg.eval.baselines:
            untrained = build.planner(cfg, build.world_model(cfg, target, "untrained"), "untrained")
        suite.measure_baselines(cfg.eval.baselines, untrained)
        logger.log(suite.play(0), env_step=0, train_step=0)
        save(run.checkpoints / "step-0")

        loop = train_online(
            actor,
            source,
            learner,
            env_steps=settings.env_steps,
            warmup_steps=settings.warmup_steps,
            replay_ratio=settings.replay_ratio,
            extra_train_steps=settings.extra_train_steps,
            watch=watch,
        )
        total = settings.env_steps + settings.extra_train_steps
        with progress(total, description=f"finetune {target}", unit="step") as bar:
            for now in common.stop_on_bad_loss(loop, run, save):
                position = {"env_step": now.env_steps, "train_step": now.train_steps}
                actor.planner.set_train_step(now.train_steps)
                source.set_beta(common.beta(cfg, now.env_steps, settings.env_steps))
                bar.update(now.advanced)
                for score in now.returns:
                    logger.log({"train/episode_return": score}, **position)
                if now.train_steps >= logged + cfg.log_every:
                    metrics = scalars(now.metrics) | common.throughput(watch, now.train_steps - logged)
                    logged = now.train_steps
                    metrics |= common.task_weight_metrics(scheduler)
                    logger.log(metrics, **position)
                    bar.set_postfix(loss=round(metrics["loss/total"], 3))
                if due <= now.env_steps < settings.env_steps:
                    due += cfg.eval.every
                    logger.log(suite.play(now.env_steps), **position)
                    save(run.checkpoints / f"step-{now.env_steps}")

        metrics = suite.play(actor.env_steps, record_frames=cfg.eval.video_steps)
        logger.log(metrics, env_step=actor.env_steps, train_step=learner.steps)
        checkpoint = save(run.path / "model")
        summary = summarise(
            cfg,
            suite,
            recipe="xtra_finetune",
            env_steps=actor.env_steps,
            train_steps=learner.steps,
            wall_seconds=time.time() - started,
            checkpoint=checkpoint,
        )
        finish(cfg, run, suite, logger, summary)
    return summary


def xtra_finetune(cfg: DictConfig) -> Path:
    """Run XTRA as configured; returns the run directory."""
    target = common.target_of(cfg)
    run = RunDirectory(cfg.run_dir or f"runs/xtra_finetune/{common.run_name(cfg)}")
    if cfg.resume == "auto" and (run.path / "summary.json").is_file():
        common.check_same_settings(cfg, run)
        already_finished(run)
        return run.path
    flags = " ".join(f"{key}={cfg[key]}" for key in ("pretrained", "cross_task", "task_weights"))
    common.say(f"XTRA on {target}, scale {cfg.scale}, seed {cfg.seed}: {flags}")
    student, datasets = gather_inputs(cfg)
    model = initial_model(cfg, target, student)
    run.write_config(common.plain(cfg))
    inputs = {f"dataset {task}": path for task, (path, _) in datasets.items()}
    inputs |= {"student": student} if student else {}
    run.write_manifest(
        recipe="xtra_finetune", config=common.plain(cfg), device=str(common.device_of(cfg)), inputs=inputs
    )
    train(cfg, run, target, model, datasets)
    return run.path


@hydra.main(config_path="../configs", config_name="xtra_finetune", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    xtra_finetune(cfg)


if __name__ == "__main__":
    common.launch(main)
