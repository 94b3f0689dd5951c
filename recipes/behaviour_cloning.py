"""Behaviour cloning, a baseline: imitate the data of other games, then that of the target game. No search, no dynamics.

XTRA (arXiv 2210.10763) appendix O: XTRA's representation and prediction networks, pretrained on the offline data of the
cross tasks by cross-entropy, then finetuned offline on the target's own data; scored before (zero-shot) and after. The
agent takes the most likely action of its policy head. Datasets are collected first if they are missing. Needs: five
minutes on one CPU core at scale=quick (the default), games played included. Commands:

    python recipes/behaviour_cloning.py target=alien task_set=maze
    python recipes/behaviour_cloning.py behaviour_cloning.pretrain=false       the target's data alone
    python recipes/behaviour_cloning.py target=assault datasets=[PATH] scale=paper device=cuda
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from xtra_rl.data import MultiTaskReplayBuffer, even_quotas
from xtra_rl.envs import get_task
from xtra_rl.evaluation.figures import learning_curve, loss_curves
from xtra_rl.evaluation.suite import EvaluationSuite
from xtra_rl.models import WorldModel
from xtra_rl.objectives import BehaviourCloningLoss
from xtra_rl.recipes import build, common, lifecycle, tracking
from xtra_rl.recipes.finish import already_finished, show_results, summarise
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.targets import BehaviourTargets
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.logging import RunLogger
from xtra_rl.training.loop import scalars, train_offline
from xtra_rl.training.progress import progress
from xtra_rl.training.run import RunDirectory
from xtra_rl.training.stopwatch import Stopwatch


def gather_inputs(cfg: DictConfig, target: str) -> tuple[dict[str, Path], Path]:
    """Datasets of the cross tasks, none without pretraining, and that of the target."""
    inputs = Inputs(cfg)
    tasks = common.cross_tasks_of(cfg) if cfg.behaviour_cloning.pretrain else []
    return {task: inputs.dataset(task) for task in tasks}, inputs.dataset(target)


def source_of(cfg: DictConfig, datasets: dict[str, Path]) -> BatchSource:
    """Batches of actions, uniform over tasks and over the transitions of each."""
    device = common.device_of(cfg)
    uniform = OmegaConf.create(common.plain(cfg) | {"replay": common.plain(cfg.replay) | {"alpha": 0.0}})
    buffers = {task: build.offline_buffer(uniform, path, task, columns=()) for task, path in datasets.items()}
    targets = {
        task: BehaviourTargets(get_task(task).action_mask.to(device), frame_stack=cfg.env.frame_stack)
        for task in datasets
    }
    quotas = even_quotas(list(datasets), cfg.batch_size)
    return build.batch_source(cfg, MultiTaskReplayBuffer(buffers, quotas), targets)


def clone(
    cfg: DictConfig,
    run: RunDirectory,
    model: WorldModel,
    datasets: dict[str, Path],
    logger: RunLogger,
    suite: EvaluationSuite,
    *,
    stage: str,
    steps: range,
    evaluations: Sequence[int] = (),
    seconds: float = 0.0,
) -> float:
    """Imitate ``datasets`` for these steps, evaluate after so many of them; returns wall time, ``seconds`` included."""
    tasks = list(datasets)
    source, watch = source_of(cfg, datasets), Stopwatch()
    # Optimiser, schedule and augmentation are those of all other stages; what is minimised is not.
    loss = BehaviourCloningLoss(model)
    learner = build.learner(
        cfg, model, tasks, "behaviour cloning", stage, updates=len(steps), reduction="mean", loss=loss
    )
    learner.on_skip = lifecycle.report_skipped(run)
    save = partial(build.save, cfg=cfg, model=model, stage=f"behaviour cloning, {stage}", tasks=tasks)
    parts = {"learner": learner, "source": source, "suite": suite, "logger": logger}

    with lifecycle.session(cfg, run.checkpoints / stage, parts) as session:
        session.marks = {"evaluated": 0, "seconds_before": seconds}
        start = session.restore()
        loop = lifecycle.stop_on_bad_loss(
            train_offline(source, learner, train_steps=len(steps), watch=watch), run.path, save
        )
        label = f"{stage} {'+'.join(tasks)}"
        with progress(len(steps), description=label, unit="train step", initial=start) as bar:
            while True:
                step, due = steps.start + learner.steps, evaluations[int(session.marks["evaluated"]) :]
                # First of all, so that an evaluation that a kill cut off is made up for.
                if due and learner.steps >= due[0]:
                    with session.interlude(learner.steps):
                        if not suite.history:
                            suite.measure_baselines(
                                [name for name in cfg.eval.baselines if name != "untrained"]
                            )
                        video = cfg.eval.video_steps if len(due) == 1 else 0
                        scores = suite.play(step, record_frames=video)
                        tracking.log_scores(run, suite, logger, scores, 0, step)
                    session.marks["evaluated"] += 1
                    bar.unpause()
                    continue
                now = next(loop, None)
                if now is None:
                    break
                bar.update()
                common.show(cfg, bar, now)
                if now.train_steps % cfg.log_every == 0:
                    metrics = scalars(now.metrics) | common.throughput(watch)
                    logger.log(metrics, env_step=0, train_step=steps.start + now.train_steps)
                session.ends_after(now.position)
        session.save(len(steps))  # the stage is over but for its model
        return session.marks["seconds_before"] + session.seconds


def finish(
    cfg: DictConfig, run: RunDirectory, suite: EvaluationSuite, logger: RunLogger, summary: dict[str, Any], start: str
) -> None:  # fmt: skip
    """Draw pictures and video, write the summary, and print the table of scores and where everything is."""
    labels: dict[str, Any] = {"scale": cfg.scale, "seed": cfg.seed, "x_axis": "train_step"}
    curve, losses = (run.figures / f"{name}.png" for name in ("learning_curve", "losses"))
    pictures = [
        learning_curve(run.metrics, curve, task=suite.task, baselines=suite.baselines, **labels),
        loss_curves(run.metrics, losses, **labels),
    ]
    title = f"{suite.task}; at start: {start}; at end: finetuned on its own data"
    show_results(run, suite, logger, summary, pictures, title=title)


def train(
    cfg: DictConfig, run: RunDirectory, target: str, cross: dict[str, Path], own: dict[str, Path]
) -> None:
    """Pretrain, score zero-shot, finetune, score; writes model, metrics and summary."""
    settings, seconds = cfg.behaviour_cloning, 0.0
    pretraining = range(settings.train_steps if cross else 0)
    finetuning = range(pretraining.stop, pretraining.stop + settings.finetune_steps)
    model = build.world_model(cfg, target, "behaviour cloning")

    with tracking.make_logger(cfg, run, resume=run.has_checkpoint, x_axis="train_step") as logger:
        suite = build.evaluation_suite(cfg, target, model, build.prior_policy(cfg, model, target))
        start = f"zero-shot, pretrained on {'+'.join(cross)}" if cross else "untrained"
        # The second stage's checkpoints hold all that the first one left behind.
        if cross and not any((run.checkpoints / "finetune").glob("step_*")):
            seconds = clone(cfg, run, model, cross, logger, suite, stage="pretrain", steps=pretraining)
            build.save(run.models / "pretrained", cfg, model, "behaviour cloning, pretrain", list(cross))
        count = settings.evaluations
        due = [len(finetuning) * i // count for i in range(count + 1)]
        clone_own = partial(clone, stage="finetune", steps=finetuning, evaluations=due, seconds=seconds)
        seconds = clone_own(cfg, run, model, own, logger, suite)
        checkpoint = build.save(
            run.path / "model", cfg, model, "behaviour cloning, finetune", [target, *cross]
        )
        summary = summarise(
            cfg,
            suite,
            recipe="behaviour_cloning",
            env_steps=0,
            train_steps=finetuning.stop,
            wall_seconds=seconds,
            checkpoint=checkpoint,
        )
        finish(cfg, run, suite, logger, summary, start)


def behaviour_cloning(cfg: DictConfig) -> Path:
    """Clone as configured; returns the run directory."""
    settings = cfg.behaviour_cloning
    if settings.evaluations < 1:
        raise ValueError(f"behaviour_cloning.evaluations is {settings.evaluations}; expected at least 1")
    if cfg.budget is not None or any(limit is not None for limit in cfg.early_stop.values()):
        raise ValueError("budget and early_stop are limits of xtra_finetune; leave them out here")
    target, pretrain = common.target_of(cfg), settings.pretrain
    name = "-".join([target, cfg.scale, *([] if pretrain else ["no_pretrain"]), f"s{cfg.seed}"])
    with lifecycle.open_run(cfg, cfg.run_dir or f"runs/behaviour_cloning/{name}") as run:
        if lifecycle.is_over(cfg, run):
            already_finished(run)
            return run.path
        common.say(f"behaviour cloning on {target}, scale {cfg.scale}, seed {cfg.seed}: pretrain={pretrain}")
        cross, own = gather_inputs(cfg, target)
        inputs = {f"dataset {task}": path for task, path in {target: own, **cross}.items()}
        lifecycle.describe(cfg, run, "behaviour_cloning", inputs)
        train(cfg, run, target, cross, {target: own})
    return run.path


@hydra.main(config_path="../configs", config_name="behaviour_cloning", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    behaviour_cloning(cfg)


if __name__ == "__main__":
    common.launch(main)
