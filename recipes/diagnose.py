"""Is the model a model? What a trained agent predicts, laid beside what its games then brought.

Does the next latent depend on the action, above all where the emulator shows another frame after another action? How
do reward and value errors grow along the unroll? Does the search improve on the prior, and do values mean what they
say? Table, CSV and picture; some minutes on a CPU, diagnose.counterfactuals=false takes one. Commands:

    python recipes/diagnose.py checkpoint=runs/xtra_finetune/alien-quick-s0/model target=alien
    python recipes/diagnose.py checkpoint=PATH target=ms_pacman scale=laptop diagnose.positions=4000
    python recipes/diagnose.py checkpoint=PATH target=alien datasets=[artifacts/datasets/PATH]    on stored games
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import hydra
from omegaconf import DictConfig

from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.collect import collect_episodes
from xtra_rl.envs import get_task
from xtra_rl.evaluation.counterfactuals import other_frames
from xtra_rl.evaluation.diagnosis import Diagnosis, examine, other_actions
from xtra_rl.evaluation.diagnosis_figure import draw_diagnosis
from xtra_rl.evaluation.diagnosis_tables import by_unroll_step, in_words, summary
from xtra_rl.evaluation.report import format_table
from xtra_rl.files import write_csv, write_json
from xtra_rl.models import WorldModel
from xtra_rl.recipes import build, build_curl, checks, common
from xtra_rl.training.progress import progress
from xtra_rl.training.run import RunDirectory
from xtra_rl.training.seeding import derive_seed, make_generator

CHUNK = 64  # positions at once: with their frames some ten megabytes


def games_seed(cfg: DictConfig, target: str) -> int:
    """Seed of the games that are played now."""
    return derive_seed(cfg.seed, "diagnose", target) % 2**20


def games(cfg: DictConfig, run: RunDirectory, target: str, model: WorldModel) -> TrajectoryDataset:
    """Stored games if they are given, else games that the agent plays now, kept in the run directory."""
    if cfg.datasets:
        dataset = TrajectoryDataset(cfg.datasets[0])
        if len(cfg.datasets) > 1 or dataset.task != target:
            raise ValueError(
                f"datasets={common.plain(cfg)['datasets']} is not one dataset of target {target!r}; pass that"
            )
        return dataset
    settings, frames = cfg.diagnose, common.frame_shape(cfg)
    writer = TrajectoryWriter(run.path / "games", target, frame_shape=frames, grayscale=cfg.env.grayscale)
    with writer, progress(settings.episodes, description=f"play {target}", unit="episode") as bar:
        bar.update(writer.num_episodes)
        collect_episodes(
            build.planner(cfg, model, "diagnose", target),
            target,
            writer,
            num_episodes=settings.episodes,
            max_steps=settings.max_steps,
            env_kwargs=common.env_kwargs(cfg),
            seed=games_seed(cfg, target),
            mode="sampled",
            num_envs=cfg.eval.num_envs,
            on_episode=lambda score: bar.update(),
        )
    return TrajectoryDataset(run.path / "games")


def examine_games(cfg: DictConfig, model: WorldModel, dataset: TrajectoryDataset, target: str) -> Diagnosis:
    """The diagnosis at random positions of the games."""
    dataset.check_frames(common.frame_shape(cfg))
    task, settings, device = get_task(target), cfg.diagnose, common.device_of(cfg)
    buffer = dataset.to_replay_buffer(
        (), num_actions=task.num_actions, alpha=0.0, seed=derive_seed(cfg.seed, "positions")
    )
    planner = build.planner(cfg, model, "diagnose", target)
    generator, parts, rows = make_generator(cfg.seed, "other actions"), [], []
    total = min(settings.positions, dataset.num_transitions)
    with progress(total, description="examine", unit="position") as bar:
        for start in range(0, total, CHUNK):
            size = min(CHUNK, total - start)
            windows = buffer.sample_windows(
                size,
                unroll_steps=settings.unroll_steps,
                bootstrap_steps=settings.horizon,
                frame_stack=cfg.env.frame_stack,
            )
            rows += windows["index"].tolist()
            game = dataset.frames.episode_of(rows[start:])
            others = other_actions(windows["action"][:, : settings.unroll_steps], task.action_mask, generator)
            parts.append(
                examine(
                    planner,
                    model,
                    windows.to(device),
                    game,
                    others.to(device),
                    action_mask=task.action_mask.to(device),
                    unroll_steps=settings.unroll_steps,
                    frame_stack=cfg.env.frame_stack,
                    horizon=settings.horizon,
                    clip_rewards=cfg.targets.clip_rewards,
                )
            )
            bar.update(size)
    found = Diagnosis.join(parts)
    if not settings.counterfactuals or cfg.datasets:
        return found
    with progress(total, description="ask the emulator", unit="position") as bar:
        differs = other_frames(
            dataset,
            rows,
            found.other,
            num_envs=min(cfg.eval.num_envs or settings.episodes, settings.episodes),
            seed=games_seed(cfg, target),
            env_kwargs=common.env_kwargs(cfg),
            on_positions=bar.update,
        )
    return replace(found, differs=differs)


def report(run: RunDirectory, found: Diagnosis, target: str, checkpoint: Path) -> None:
    """Print what a person reads first; write everything else."""
    rows, numbers = by_unroll_step(found), summary(found)
    numbers |= {"target": target, "checkpoint": str(checkpoint)}
    write_json(run.path / "diagnosis.json", numbers)
    write_csv(run.path / "diagnosis.csv", rows)
    picture = draw_diagnosis(
        found, run.figures / "diagnosis.png", title=f"{checkpoint} on {target}, {numbers['games']} games"
    )
    shown = [
        "step",
        "true action beats random",
        "effect of the action",
        "reward explained",
        "value explained",
    ]
    common.say("\n" + format_table(rows, columns=shown))
    common.say("\n" + in_words(numbers))
    common.say(f"\nrun       {run.path}\ntable     {run.path / 'diagnosis.csv'}\npicture   {picture}")


def diagnose(cfg: DictConfig, checkpoint: Path) -> Path:
    """Play, examine, report; returns the run directory."""
    for key in ("episodes", "max_steps", "positions", "unroll_steps", "horizon"):
        if cfg.diagnose[key] < 1:
            raise ValueError(f"diagnose.{key} is {cfg.diagnose[key]}; expected at least 1")
    target = common.target_of(cfg)
    if build_curl.is_network(checkpoint):
        raise ValueError(f"checkpoint={checkpoint} is of CURL, which has no world model; pass another one")
    model, about = build.load_model(cfg, checkpoint)
    checks.check_fits(cfg, model, get_task(target), checkpoint)
    if build.is_cloned(about):
        raise ValueError(
            f"checkpoint={checkpoint} was cloned: its dynamics were never trained; pass another one"
        )
    run = RunDirectory(cfg.run_dir or f"runs/diagnose/{target}-{cfg.scale}-{time.strftime('%Y%m%d-%H%M%S')}")
    run.write_config(common.plain(cfg))
    inputs = {"checkpoint": checkpoint}
    run.write_manifest(
        recipe="diagnose", config=common.plain(cfg), device=str(common.device_of(cfg)), inputs=inputs
    )
    found = examine_games(cfg, model, games(cfg, run, target, model), target)
    report(run, found, target, checkpoint)
    return run.path


@hydra.main(config_path="../configs", config_name="diagnose", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    diagnose(cfg, common.checkpoint_of(cfg))


if __name__ == "__main__":
    common.launch(main)
