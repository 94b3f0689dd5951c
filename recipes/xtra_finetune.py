"""XTRA: learn a new game online, starting from a student of other games and training on those games beside it.

arXiv 2210.10763, stage 2. Datasets, teachers and the student are used if given or found, and built at the same scale
if missing, so this one command runs the whole method. Needs: minutes on two CPU cores at scale=quick (the
default); a GPU from scale=workstation on. Commands:

    python recipes/xtra_finetune.py
    python recipes/xtra_finetune.py target=assault task_set=shooter scale=laptop seed=1 logger=[csv,wandb]
    python recipes/xtra_finetune.py cross_task=false pretrained=false        EfficientZero from scratch
    python recipes/xtra_finetune.py task_weights=false                       the paper's ablations (Table 1)
    python recipes/xtra_finetune.py task_weighting=pcgrad                    another rule for the same weights
    python recipes/xtra_finetune.py freeze=[representation] transfer=[representation,dynamics]
    python recipes/xtra_finetune.py inputs=mazes target=alien scale=laptop   from a student that ships with it
    torchrun --nproc-per-node=4 recipes/xtra_finetune.py scale=paper         four processes share its batches

A run that is killed, by whatever, goes on with the same command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig

from xtra_rl.distributed import SilentLogger, on_main
from xtra_rl.evaluation.suite import EvaluationSuite
from xtra_rl.models import WorldModel
from xtra_rl.recipes import build, checks, common, lifecycle, tracking
from xtra_rl.recipes.finish import already_finished, finish, summarise
from xtra_rl.recipes.inputs import Annotated, Inputs
from xtra_rl.recipes.task_weighting import task_weighting
from xtra_rl.training.actor import Actor
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.learner import Learner
from xtra_rl.training.logging import RunLogger
from xtra_rl.training.loop import Iteration, scalars, train_online
from xtra_rl.training.progress import progress
from xtra_rl.training.run import RunDirectory
from xtra_rl.training.session import TrainingSession
from xtra_rl.training.stopwatch import Stopwatch
from xtra_rl.transfer import TaskWeighting, freeze_components, transfer_components


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
        checks.check_student(cfg, pretrained, metadata, student, model.num_actions)
        report = transfer_components(pretrained, model, list(cfg.transfer))
        common.say(f"transfer from {student} ({', '.join(metadata.get('tasks', ['?']))}):\n{report}")
    return model


@dataclass
class Parts:
    """What a run is made of; ``measure_baselines`` plays what its scores are read against."""

    run: RunDirectory
    actor: Actor
    source: BatchSource
    learner: Learner
    scheduler: TaskWeighting | None
    suite: EvaluationSuite
    logger: RunLogger | SilentLogger
    save: Callable[..., Path]
    measure_baselines: Callable[[], object]


def make_parts(
    cfg: DictConfig, run: RunDirectory, target: str, model: WorldModel, datasets: Annotated
) -> Parts:
    """Build them as the config says."""
    scheduler = task_weighting(cfg, list(datasets))
    cross = build.annotated_buffers(cfg, datasets)
    actor, source, learner = build.online(cfg, target, model, "finetune", cross, scheduler)
    learner.on_skip = lifecycle.report_skipped(run)
    save = partial(build.save, cfg=cfg, model=model, stage="finetune", tasks=[target, *datasets])
    suite = build.evaluation_suite(cfg, target, model)
    logger = tracking.make_logger(cfg, run, resume=run.has_checkpoint)
    baselines = partial(build.measure_baselines, cfg, suite)
    return Parts(run, actor, source, learner, scheduler, suite, logger, save, baselines)


def log(
    cfg: DictConfig, logger: RunLogger | SilentLogger, marks: dict[str, float], now: Iteration, watch: Stopwatch,
    scheduler: TaskWeighting | None,
) -> None:  # fmt: skip
    """Scores of the games that ended; every ``log_every`` train steps losses, search, task weights and times."""
    steps = {"env_step": now.env_steps, "train_step": now.train_steps}
    for score in now.returns:
        logger.log({"train/episode_return": score}, **steps)
    if now.train_steps - marks["logged"] >= cfg.log_every:
        marks["logged"] = now.train_steps
        metrics = scalars(now.metrics) | common.throughput(watch)
        logger.log(metrics | common.task_weight_metrics(scheduler), **steps)


def finetune(
    cfg: DictConfig, parts: Parts, session: TrainingSession, position: int, evaluate: Callable[..., Path]
) -> tuple[int, str | None]:
    """Act and learn from ``position`` on; returns where it ended, and why if that was early."""
    settings, watch = common.plain(cfg.finetune), Stopwatch()
    total = settings["env_steps"] + settings["extra_train_steps"]
    actor, source, learner, marks = parts.actor, parts.source, parts.learner, session.marks
    loop = train_online(actor, source, learner, watch=watch, **settings)
    loop = lifecycle.stop_on_bad_loss(loop, parts.run.path, parts.save)
    with progress(total, description=f"finetune {parts.suite.task}", unit="step", initial=position) as bar:
        # What is due is known from what checkpoints hold: what a kill has cut off comes first after it.
        while not (stopped := lifecycle.reason_to_stop(cfg, parts.suite, session)):
            if marks["evaluate"] <= actor.env_steps < settings["env_steps"]:
                evaluate(position, parts.run.models / f"step-{actor.env_steps}")
                marks["evaluate"] += cfg.eval.every
                bar.unpause()
                continue
            actor.planner.set_train_step(learner.steps)
            source.set_beta(common.beta(cfg, actor.env_steps, settings["env_steps"]))
            if (now := next(loop, None)) is None:
                break
            bar.update(now.position - position)
            position = now.position
            log(cfg, parts.logger, marks, now, watch, parts.scheduler)
            common.show(cfg, bar, now)
            session.ends_after(position)
    return position, stopped


def train(cfg: DictConfig, parts: Parts, *, recipe: str) -> None:
    """Learn online, from the last checkpoint if there is one, evaluate now and then, and sum up."""
    run, suite, logger, actor, learner = parts.run, parts.suite, parts.logger, parts.actor, parts.learner
    saved = {"learner": learner, "actor": actor, "source": parts.source, "suite": suite, "logger": logger}

    with logger, lifecycle.session(cfg, run.checkpoints, saved, budget=True) as session:
        session.marks = {"logged": 0, "evaluate": 0}
        position = session.restore()

        def evaluate(position: int, model_path: Path, video_steps: int = 0) -> Path:
            """Score the agent and keep its model, and the best so far."""

            def play() -> None:
                if not suite.history:
                    parts.measure_baselines()
                scores = suite.play(actor.env_steps, record_frames=video_steps)
                tracking.log_scores(run, suite, logger, scores, actor.env_steps, learner.steps)

            with session.interlude(position):
                lifecycle.play_on_main(suite, play)
            if suite.is_best:
                parts.save(run.models / "best")
            return parts.save(model_path)

        position, stopped = finetune(cfg, parts, session, position, evaluate)
        if stopped and suite.history and suite.history[-1][0] == actor.env_steps:
            checkpoint = parts.save(run.path / "model")  # the evaluation that was the reason stands
        else:
            checkpoint = evaluate(position, run.path / "model", cfg.eval.video_steps)
        counts = {"env_steps": actor.env_steps, "train_steps": learner.steps, "wall_seconds": session.seconds}
        summary = summarise(cfg, suite, recipe=recipe, checkpoint=checkpoint, stopped=stopped, **counts)
        on_main(lambda: finish(cfg, run, suite, logger, summary))


def xtra_finetune(cfg: DictConfig) -> Path:
    """Run XTRA as configured, or go on with it; returns the run directory."""
    target = common.target_of(cfg)
    path = cfg.run_dir or f"runs/xtra_finetune/{common.run_name(cfg)}"
    with lifecycle.open_run(cfg, path) as run:
        if lifecycle.is_over(cfg, run):
            on_main(lambda: already_finished(run))
            return run.path
        flags = " ".join(f"{key}={cfg[key]}" for key in ("pretrained", "cross_task", "task_weights"))
        common.say(f"XTRA on {target}, scale {cfg.scale}, seed {cfg.seed}: {flags}")
        student, datasets = gather_inputs(cfg)
        model = initial_model(cfg, target, student)
        inputs = {f"dataset {task}": path for task, (path, _) in datasets.items()}
        lifecycle.describe(cfg, run, "xtra_finetune", inputs | ({"student": student} if student else {}))
        train(cfg, make_parts(cfg, run, target, model, datasets), recipe="xtra_finetune")
    return run.path


@hydra.main(config_path="../configs", config_name="xtra_finetune", version_base="1.3")
@partial(common.friendly, data_parallel=True)
def main(cfg: DictConfig) -> None:
    xtra_finetune(cfg)


if __name__ == "__main__":
    common.launch(main)
