"""Offline data of one game: train EfficientZero from scratch, let its checkpoints play, store the episodes.

XTRA (arXiv 2210.10763) appendix F: 12 checkpoints, 64 evaluation episodes from each. Needs no input. A collection that
was killed goes on where it was, in the training or in a game. Commands:

    python recipes/collect_offline.py target=phoenix
    python recipes/collect_offline.py target=phoenix scale=laptop artifact_seed=1
    python recipes/collect_offline.py target=phoenix collect.policy=random     or curl, or the path of a trained model
    python recipes/collect_offline.py target=phoenix scale=paper device=cuda
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from xtra_rl import distributed
from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
from xtra_rl.data.collect import Policy, collect_episodes
from xtra_rl.data.inspect import returns_by_checkpoint
from xtra_rl.evaluation.baselines import RandomPolicy
from xtra_rl.evaluation.report import format_table
from xtra_rl.recipes import build, build_curl, common, lifecycle
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.training.loop import train_online
from xtra_rl.training.progress import progress
from xtra_rl.training.seeding import derive_seed, make_generator


def train_collector(cfg: DictConfig, task: str, folder: Path) -> dict[int, Path]:
    """Train the agent that plays on ``task``; its checkpoints by env step, saved in ``folder``."""
    settings = cfg.collect
    steps = [settings.env_steps * (i + 1) // settings.checkpoints for i in range(settings.checkpoints)]
    saved = {step: folder / f"step-{step}" for step in steps}
    with lifecycle.scratch(folder) as checkpoints:
        if not distributed.on_main(lambda: all(path.is_dir() for path in saved.values())):
            _train(cfg, task, saved, checkpoints)
    return saved


def _train(cfg: DictConfig, task: str, saved: dict[int, Path], checkpoints: Path) -> None:
    settings = cfg.collect
    if cfg.collect.policy == "curl":
        if distributed.world_size() > 1:
            raise ValueError("CURL learns in one process; collect with it by python, not by torchrun")
        agent, stage = build_curl.network(cfg, task, "collect", task), f"{build_curl.STAGE}, collect"
        actor, source, learner = build_curl.online(cfg, task, agent, "collect")
    else:
        agent, stage = build.world_model(cfg, task, "collect", task), "collect"
        actor, source, learner = build.online(cfg, task, agent, "collect")
    loop = train_online(
        actor,
        source,
        learner,
        env_steps=settings.env_steps,
        warmup_steps=settings.warmup_steps,
        replay_ratio=settings.replay_ratio,
    )
    learner.max_skipped = 0  # what others build on must not have left out anything
    save = partial(build.save, cfg=cfg, model=agent, stage=stage, tasks=[task])
    loop = lifecycle.stop_on_bad_loss(loop, checkpoints, save)
    parts = {"learner": learner, "actor": actor, "source": source}
    description = f"collect {task}: train"
    with lifecycle.session(cfg, checkpoints, parts) as session:
        start = session.restore()
        with progress(settings.env_steps, description=description, unit="env step", initial=start) as bar:
            actor.planner.set_train_step(learner.steps)
            for now in loop:
                actor.planner.set_train_step(now.train_steps)
                source.set_beta(common.beta(cfg, now.env_steps, settings.env_steps))
                bar.update(cfg.num_envs)
                for step, path in saved.items():
                    if now.env_steps - cfg.num_envs < step <= now.env_steps:
                        save(path)
                session.ends_after(now.position)


def policies(cfg: DictConfig, task: str, path: Path) -> dict[int, Any]:
    """What plays, by the checkpoint number that its episodes get: functions that make a policy."""
    chosen = cfg.collect.policy

    def trained(checkpoint: Path) -> Policy:
        if build_curl.is_network(checkpoint):
            network = build_curl.load_network(cfg, checkpoint)
            return build_curl.policy(cfg, network, "collect episodes", task)
        model, _ = build.load_model(cfg, checkpoint)
        return build.planner(cfg, model, "collect episodes", task)

    if chosen == "random":
        return {0: lambda: RandomPolicy(make_generator(cfg.seed, "random episodes", task))}
    if chosen not in ("efficientzero", "curl"):
        return {0: partial(trained, Path(chosen))}
    saved = train_collector(cfg, task, path / "collector")
    return {step: partial(trained, checkpoint) for step, checkpoint in saved.items()}


def collect_offline(cfg: DictConfig, task: str, path: Path) -> None:
    """Write the dataset of ``task`` to ``path``, or continue it; the checkpoints that play stay beside the data."""
    players = policies(cfg, task, path)
    distributed.on_main(lambda: play(cfg, task, path, players))


def play(cfg: DictConfig, task: str, path: Path, players: dict[int, Any]) -> None:
    """Episodes of every player, written to ``path`` as far as they are not there."""
    settings = cfg.collect
    writer = TrajectoryWriter(
        path,
        task,
        frame_shape=common.frame_shape(cfg),
        frame_skip=cfg.env.frame_skip,
        sticky=cfg.env.sticky,
        grayscale=cfg.env.grayscale,
        env_settings={name: cfg.env[name] for name in ("noop_max", "max_frames", "subtract_background")},
        provenance={
            "recipe": "collect_offline",
            "scale": cfg.scale,
            "seed": cfg.seed,
            **common.plain(settings),
        },
    )
    total = settings.episodes * len(players)
    with writer, progress(total, description=f"collect {task}: play", unit="episode") as bar:
        bar.update(writer.num_episodes)
        for checkpoint, make_policy in players.items():
            if writer.count(checkpoint) >= settings.episodes:
                continue
            bar.set_postfix(checkpoint=checkpoint)
            collect_episodes(
                make_policy(),
                task,
                writer,
                num_episodes=settings.episodes,
                max_steps=settings.max_steps,
                env_kwargs=common.env_kwargs(cfg),
                seed=derive_seed(cfg.seed, "collect episodes", task, checkpoint) % 2**20,
                mode=settings.mode,
                num_envs=cfg.eval.num_envs,
                checkpoint=checkpoint,
                on_episode=lambda score: bar.update(),
            )
    dataset = TrajectoryDataset(path)
    common.say(f"{task}: {dataset.num_transitions} transitions in {dataset.num_episodes} episodes")
    common.say(format_table(returns_by_checkpoint(dataset)))


@hydra.main(config_path="../configs", config_name="collect_offline", version_base="1.3")
@partial(common.friendly, data_parallel=True)
def main(cfg: DictConfig) -> None:
    path = Inputs(cfg).dataset(common.target_of(cfg))
    common.say(f"dataset: {path}")


if __name__ == "__main__":
    common.launch(main)
