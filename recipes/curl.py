"""CURL, a baseline: data-efficient Rainbow with a contrastive head. No model of the world, no search.

CURL (arXiv 2004.04136) on Atari 100k, as XTRA (arXiv 2210.10763) appendix G compares with it: learnt online from
scratch, or pretrained on the offline data of the cross tasks, all at once with one 18-way head, then online. As in the
paper that data is of individual CURL agents: one learns each cross task and its checkpoints play
(``collect.policy=curl``); ``collect.policy=efficientzero`` takes XTRA's kind of data, ``datasets=[PATH,...]`` your own.
Needs: minutes on one CPU core at scale=quick (the default). Commands:

    python recipes/curl.py target=ms_pacman scale=laptop
    python recipes/curl.py target=assault task_set=shooter curl.pretrain=true
    python recipes/curl.py target=pong curl.contrastive_coef=0.01              as published for Pong, Boxing, Freeway
    python recipes/curl.py curl.contrastive_coef=0                             data-efficient Rainbow alone

A run that is killed, by whatever, goes on with the same command.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig

from xtra_rl.models import RainbowNetwork
from xtra_rl.recipes import build, build_curl, common, lifecycle, tracking
from xtra_rl.recipes.finish import already_finished
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.recipes.xtra_finetune import Parts, train
from xtra_rl.training.run import RunDirectory


def pretrain(cfg: DictConfig, run: RunDirectory, network: RainbowNetwork, datasets: dict[str, Path]) -> None:
    """Learn all cross tasks from their data; the weights are the network's when this returns."""
    tasks, folder = list(datasets), run.checkpoints / "pretrain"
    save = partial(build.save, cfg=cfg, model=network, stage=f"{build_curl.STAGE}, pretrain", tasks=tasks)
    lifecycle.learn_offline(
        cfg,
        build_curl.offline_source(cfg, datasets),
        build_curl.learner(cfg, network, tasks, "pretrain"),
        folder,
        train_steps=cfg.curl.train_steps,
        description=f"pretrain {'+'.join(tasks)}",
        save=save,
    )
    save(run.models / "pretrained")


def make_parts(cfg: DictConfig, run: RunDirectory, target: str, network: RainbowNetwork) -> Parts:
    """Everything that learns the target online; the slow copies start from the network as it is now."""
    actor, source, learner = build_curl.online(cfg, target, network, "finetune")
    learner.on_skip = lifecycle.report_skipped(run)
    save = partial(build.save, cfg=cfg, model=network, stage=build_curl.STAGE, tasks=[target])
    suite = build.evaluation_suite(cfg, target, network, build_curl.policy(cfg, network, "evaluate", target))
    untrained = build_curl.policy(cfg, build_curl.network(cfg, target, "untrained"), "untrained")
    baselines = partial(suite.measure_baselines, list(cfg.eval.baselines), untrained)
    logger = tracking.make_logger(cfg, run, resume=run.has_checkpoint)
    return Parts(run, actor, source, learner, None, suite, logger, save, baselines)


def curl(cfg: DictConfig) -> Path:
    """Run CURL as configured, or go on with it; returns the run directory."""
    target, pretrained = common.target_of(cfg), cfg.curl.pretrain
    name = "-".join([target, cfg.scale, *(["pretrain"] if pretrained else []), f"s{cfg.seed}"])
    with lifecycle.open_run(cfg, cfg.run_dir or f"runs/curl/{name}") as run:
        if lifecycle.is_over(cfg, run):
            already_finished(run)
            return run.path
        common.say(f"CURL on {target}, scale {cfg.scale}, seed {cfg.seed}: pretrain={pretrained}")
        inputs, tasks = Inputs(cfg), common.cross_tasks_of(cfg) if pretrained else []
        datasets = {task: inputs.dataset(task) for task in tasks}
        network = build_curl.network(cfg, target, "finetune")
        lifecycle.describe(cfg, run, "curl", {f"dataset {task}": path for task, path in datasets.items()})
        # The online stage's checkpoints hold all that pretraining left behind.
        if datasets and not any(run.checkpoints.glob("step_*")):
            pretrain(cfg, run, network, datasets)
        train(cfg, make_parts(cfg, run, target, network), recipe="curl")
    return run.path


@hydra.main(config_path="../configs", config_name="curl", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    curl(cfg)


if __name__ == "__main__":
    common.launch(main)
