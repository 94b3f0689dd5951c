"""A student of several games, distilled from one teacher per game.

XTRA (arXiv 2210.10763) section 3.1, stage 1b: uniform over tasks; the targets are the teachers' policies and n-step
values bootstrapped from the teachers. Datasets and teachers are made first if they are missing. Commands:

    python recipes/distill.py target=alien task_set=maze          every maze but the target
    python recipes/distill.py cross_tasks=[carnival,phoenix]
    python recipes/distill.py task_set=diverse8 num_cross_tasks=8 scale=paper device=cuda
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from xtra_rl.data import MultiTaskReplayBuffer, even_quotas
from xtra_rl.recipes import build, common
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.training.batches import BatchSource
from xtra_rl.training.loop import train_offline
from xtra_rl.training.progress import progress


def distill(cfg: DictConfig, datasets: dict[str, tuple[Path, dict[str, Any]]], path: Path) -> None:
    """Train on annotated datasets, given with the provenance of their annotation, and write the student to ``path``."""
    tasks = list(datasets)
    buffers = build.annotated_buffers(cfg, datasets)
    model = build.world_model(cfg, tasks[0], "student")
    quotas = even_quotas(tasks, cfg.batch_size)
    source = BatchSource(
        MultiTaskReplayBuffer(buffers, quotas),
        dict.fromkeys(tasks, build.teacher_targets(cfg, model)),
        device=common.device_of(cfg),
    )
    learner = build.learner(cfg, model, tasks, "student", reduction="mean")

    loop = train_offline(source, learner, train_steps=cfg.distill.train_steps)
    with progress(cfg.distill.train_steps, description=f"distil {'+'.join(tasks)}", unit="train step") as bar:
        for now in loop:
            bar.update()
            source.set_beta(common.beta(cfg, now.train_steps, cfg.distill.train_steps))
            common.show(cfg, bar, now)
    build.save(path, cfg, model, "student", tasks)


@hydra.main(config_path="../configs", config_name="distill", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    common.say(f"student: {Inputs(cfg).student()}")


if __name__ == "__main__":
    common.launch(main)
