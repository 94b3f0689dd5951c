"""The end of a run: summary, pictures, video and the table that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from xtra_rl.evaluation.figures import learning_curve, loss_curves, read_metrics, task_weight_traces
from xtra_rl.evaluation.report import format_table
from xtra_rl.evaluation.suite import EvaluationSuite
from xtra_rl.recipes import common, tracking
from xtra_rl.recipes.task_weighting import task_weighting
from xtra_rl.training.logging import RunLogger
from xtra_rl.training.run import RunDirectory
from xtra_rl.transfer import TaskWeightScheduler

VIDEO_FPS = 15  # real time for agent steps of four frames at 60 Hz


def summarise(
    cfg: DictConfig, suite: EvaluationSuite, *, recipe: str, env_steps: int, train_steps: int, wall_seconds: float,
    checkpoint: Path, stopped: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """What ``summary.json`` holds: scores of the last evaluation, every episode, and what to read them against."""
    (_, start), (_, end) = suite.history[0], suite.history[-1]
    main_mode = suite.modes[0]
    return {
        "recipe": recipe,
        "scale": cfg.scale,
        "seed": cfg.seed,
        "target": suite.task,
        "env_steps": env_steps,
        "train_steps": train_steps,
        "wall_seconds": round(wall_seconds, 1),
        "stopped": stopped,
        "eval/mode": main_mode,
        "eval/mean_return": end[main_mode].mean_return,
        "eval/hns": suite.human_normalized(end[main_mode].mean_return),
        "eval/returns": {mode: result.returns for mode, result in end.items()},
        "eval/truncated": {mode: sum(result.truncated) for mode, result in end.items()},
        "start/returns": {mode: result.returns for mode, result in start.items()},
        "baselines": suite.baselines,
        "checkpoint": str(checkpoint),
    }


def score_table(suite_task: str, summary: dict[str, Any], normalise: Any) -> str:
    """Random, best constant action, start and end, side by side."""
    rows = []
    for name, score in summary["baselines"].items():
        rows.append({"agent": name, "mode": "", "mean return": score, "human-normalised": normalise(score)})
    for label, key in (("at start", "start/returns"), ("at end", "eval/returns")):
        for mode, returns in summary[key].items():
            mean = sum(returns) / len(returns)
            rows.append(
                {"agent": label, "mode": mode, "mean return": mean, "human-normalised": normalise(mean)}
            )
    return f"{suite_task}\n" + format_table(rows)


def draw(cfg: DictConfig, run: RunDirectory, target: str, summary: dict[str, Any]) -> list[Path]:
    """Learning curve, task weights where there are any, and losses, from the run's metrics."""
    labels: dict[str, Any] = {"scale": cfg.scale, "seed": cfg.seed}
    metrics = read_metrics(run.metrics)
    curve = learning_curve(
        metrics, run.figures / "learning_curve.png", task=target, baselines=summary["baselines"], **labels
    )
    losses = loss_curves(metrics, run.figures / "losses.png", **labels)
    if not any(name.startswith(("task_weight/", "grad_cos/")) for name in metrics):
        return [curve, losses]
    schedule = cfg.task_weight_schedule
    first = range(schedule.start, max(summary["train_steps"], 1), schedule.cycle)
    # Gradient surgery measures at every step and knows no threshold.
    scheduled = isinstance(task_weighting(cfg, ["any"]), TaskWeightScheduler)
    windows = [(step, step + schedule.window) for step in first if scheduled]
    threshold = schedule.threshold if scheduled else None
    weights = task_weight_traces(
        metrics, run.figures / "task_weights.png", windows=windows, threshold=threshold, **labels
    )
    return [curve, weights, losses]


def finish(
    cfg: DictConfig, run: RunDirectory, suite: EvaluationSuite, logger: RunLogger, summary: dict[str, Any]
) -> None:
    """Write pictures, video and, last, the summary that makes a run finished; print where everything is."""
    small = cfg.scale in ("smoke", "quick")
    note = f"scale={cfg.scale} shows the machinery at work; its budgets are too small to measure transfer."
    notes = [note] if small else []
    if summary["stopped"]:
        notes.append(f"Ended early: {summary['stopped']}. With another limit the same command goes on.")
    pictures = draw(cfg, run, suite.task, summary)
    show_results(run, suite, logger, summary, pictures, title=suite.task, notes=notes)


def show_results(
    run: RunDirectory, suite: EvaluationSuite, logger: RunLogger, summary: dict[str, Any], pictures: list[Path],
    *, title: str, notes: Sequence[str] = (),
) -> None:  # fmt: skip
    """Log pictures and the video of the last evaluation, write the summary, print scores and where everything is."""
    env_step = summary["env_steps"]
    for picture in pictures:
        logger.log_figure(picture.stem, picture, env_step=env_step)
    frames = suite.history[-1][1][suite.modes[-1]].frames
    video = logger.log_video("final", frames, VIDEO_FPS, env_step=env_step) if frames is not None else None
    tracking.log_end(logger, summary)
    run.write_summary(summary)
    common.say("\n" + score_table(title, summary, suite.human_normalized))
    common.say(
        f"\n{suite.episodes} episodes of at most {suite.max_steps} env steps; the paper plays 32 of 27000."
    )
    for note in notes:
        common.say(note)
    common.say(f"\nrun       {run.path}\nmodel     {summary['checkpoint']}")
    for path in [*pictures, *([video] if video else [])]:
        common.say(f"{'video' if path == video else 'picture':<9} {path}")


def already_finished(run: RunDirectory) -> None:
    """Say that a run is complete instead of overwriting it."""
    summary = run.read_summary()
    common.say(
        f"{run.path} is already finished: mean return {summary['eval/mean_return']:.1f} on {summary['target']} after"
        f" {summary['env_steps']} env steps. Pass another run_dir or seed, or resume=restart, to run again."
    )
