"""Offline data of one game: train EfficientZero from scratch, let its checkpoints play, store the episodes.

XTRA (arXiv 2210.10763) appendix F: 12 checkpoints, 64 evaluation episodes from each. Needs no input. Commands:

    python recipes/collect_offline.py target=phoenix
    python recipes/collect_offline.py target=phoenix scale=laptop artifact_seed=1
    python recipes/collect_offline.py target=phoenix scale=paper device=cuda
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from xtra_rl.data import TrajectoryWriter
from xtra_rl.data.collect import collect_episodes
from xtra_rl.evaluation.report import format_table
from xtra_rl.recipes import build, common
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.training.loop import train_online
from xtra_rl.training.progress import progress
from xtra_rl.training.seeding import derive_seed


def collect_offline(cfg: DictConfig, task: str, path: Path) -> None:
    """Write the dataset of ``task`` to ``path``, and the last checkpoint beside its shards."""
    settings = cfg.collect
    model = build.world_model(cfg, task, "collect", task)
    actor, source, learner = build.online(cfg, task, model, "collect")
    player = build.planner(cfg, model, "collect episodes", task)
    due = [settings.env_steps * (i + 1) // settings.checkpoints for i in range(settings.checkpoints)]
    rows = []

    env = common.env_kwargs(cfg)
    writer = TrajectoryWriter(
        path,
        task,
        frame_shape=common.frame_shape(cfg),
        frame_skip=cfg.env.frame_skip,
        sticky=cfg.env.sticky,
        grayscale=cfg.env.grayscale,
        env_settings={"noop_max": cfg.env.noop_max, "max_frames": cfg.env.max_frames},
        provenance={
            "recipe": "collect_offline",
            "scale": cfg.scale,
            "seed": cfg.seed,
            **common.plain(settings),
        },
    )
    loop = train_online(
        actor,
        source,
        learner,
        env_steps=settings.env_steps,
        warmup_steps=settings.warmup_steps,
        replay_ratio=settings.replay_ratio,
    )
    with writer, progress(settings.env_steps, description=f"collect {task}", unit="env step") as bar:
        for now in loop:
            actor.planner.set_train_step(now.train_steps)
            source.set_beta(common.beta(cfg, now.env_steps, settings.env_steps))
            bar.update(cfg.num_envs)
            while due and now.env_steps >= due[0]:
                step = due.pop(0)
                bar.set_postfix(playing=f"{settings.episodes} episodes")
                returns = collect_episodes(
                    player,
                    task,
                    writer,
                    num_episodes=settings.episodes,
                    max_steps=settings.max_steps,
                    env_kwargs=env,
                    seed=derive_seed(cfg.seed, "collect episodes", task, step) % 2**20,
                    mode=settings.mode,
                    num_envs=cfg.eval.num_envs,
                    checkpoint=step,
                )
                rows.append(
                    {"checkpoint": step, "episodes": len(returns), "mean return": sum(returns) / len(returns)}
                )
    build.save(path / "collector", cfg, model, "collect", [task])
    common.say(f"{task}: {writer.num_transitions} transitions in {writer.num_episodes} episodes")
    common.say(format_table(rows))


@hydra.main(config_path="../configs", config_name="collect_offline", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    path = Inputs(cfg).dataset(common.target_of(cfg))
    common.say(f"dataset: {path}")


if __name__ == "__main__":
    common.launch(main)
