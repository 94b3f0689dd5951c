"""A student of several games, distilled from one teacher per game.

XTRA (arXiv 2210.10763) section 3.1, stage 1b: uniform over tasks; the targets are the teachers' policies and n-step
values bootstrapped from the teachers. Datasets and teachers are made first if they are missing. With
distill.targets=reanalyze there are no teachers: the student reanalyses the data of all games itself, the multi-game
offline reinforcement learning that the paper's appendix C compares with. Commands:

    python recipes/distill.py target=alien task_set=maze          every maze but the target
    torchrun --nproc-per-node=4 recipes/distill.py task_set=diverse8 scale=paper
    python recipes/distill.py cross_tasks=[carnival,phoenix] distill.targets=reanalyze
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import hydra
from omegaconf import DictConfig

from xtra_rl.data import MultiTaskReplayBuffer, even_quotas
from xtra_rl.objectives import LaggingTarget
from xtra_rl.recipes import build, common, lifecycle
from xtra_rl.recipes.inputs import Annotated, Inputs
from xtra_rl.training.batches import Targets


def distill(cfg: DictConfig, datasets: Annotated, path: Path) -> None:
    """Train on datasets, given with the provenance of their annotation if any; write the student to ``path``."""
    tasks = list(datasets)
    model = build.world_model(cfg, tasks[0], "student")
    targets: dict[str, Targets]
    quotas = even_quotas(tasks, cfg.batch_size)
    if cfg.distill.targets == "teacher":
        buffers = build.annotated_buffers(cfg, datasets)
        target, targets = None, dict.fromkeys(tasks, build.teacher_targets(cfg, model))
    else:
        buffers = {
            task: build.offline_buffer(cfg, data, task, columns=()) for task, (data, _) in datasets.items()
        }
        target = LaggingTarget(model, interval=cfg.target_interval, lag=cfg.target_lag)
        targets = {
            task: build.offline_reanalyze_targets(cfg, target, task, buffer.max_rows, quotas[task], "student")
            for task, buffer in buffers.items()
        }
    source = build.batch_source(cfg, MultiTaskReplayBuffer(buffers, quotas), targets)
    steps, label = cfg.distill.train_steps, f"distil {'+'.join(tasks)}"
    learner = build.learner(
        cfg, model, tasks, "student", updates=steps, target=target, reduction="mean", shard=source.shard
    )

    with lifecycle.scratch(path) as folder:
        save = partial(build.save, cfg=cfg, model=model, stage="student", tasks=tasks)
        lifecycle.learn_offline(cfg, source, learner, folder, train_steps=steps, description=label, save=save)
        save(path)


@hydra.main(config_path="../configs", config_name="distill", version_base="1.3")
@partial(common.friendly, data_parallel=True)
def main(cfg: DictConfig) -> None:
    common.say(f"student: {Inputs(cfg).student()}")


if __name__ == "__main__":
    common.launch(main)
