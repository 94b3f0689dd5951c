"""A teacher of one game: EfficientZero trained offline, by reanalysis, on the game's dataset alone.

XTRA (arXiv 2210.10763) section 3.1, stage 1a. Its predictions are stored beside the data for the student. The dataset
is collected first if it is missing. Commands:

    python recipes/train_teacher.py target=phoenix
    python recipes/train_teacher.py target=phoenix datasets=[PATH] teacher.annotation=search
    torchrun --nproc-per-node=4 recipes/train_teacher.py target=phoenix scale=paper
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from xtra_rl.data import MultiTaskReplayBuffer, TrajectoryDataset
from xtra_rl.envs import get_task
from xtra_rl.files import path_sha256
from xtra_rl.objectives import LaggingTarget
from xtra_rl.recipes import build, common, lifecycle
from xtra_rl.recipes.inputs import Inputs
from xtra_rl.targets import teacher_columns
from xtra_rl.training.progress import progress


def train_teacher(cfg: DictConfig, task: str, dataset: Path, path: Path) -> None:
    """Train on ``dataset``, from where a killed training was, and write the teacher's model to ``path``."""
    replay = build.offline_buffer(cfg, dataset, task, columns=())
    model = build.world_model(cfg, task, "teacher", task)
    target = LaggingTarget(model, interval=cfg.target_interval, lag=cfg.target_lag)
    targets = build.offline_reanalyze_targets(cfg, target, task, replay.max_rows, cfg.batch_size, "teacher")
    buffers = MultiTaskReplayBuffer({task: replay}, {task: cfg.batch_size})
    source = build.batch_source(cfg, buffers, {task: targets})
    steps = cfg.teacher.train_steps
    learner = build.learner(cfg, model, [task], "teacher", updates=steps, target=target, shard=source.shard)

    with lifecycle.scratch(path) as folder:
        save = partial(build.save, cfg=cfg, model=model, stage="teacher", tasks=[task])
        lifecycle.learn_offline(
            cfg, source, learner, folder, train_steps=steps, description=f"teach {task}", save=save
        )
        save(path)


def annotation_of(cfg: DictConfig, teacher: Path) -> dict[str, Any]:
    """Provenance of what a teacher says about a dataset."""
    return {"teacher": path_sha256(teacher)} | annotation_settings(cfg)


def annotation_settings(cfg: DictConfig) -> dict[str, Any]:
    """What decides an annotation beside the teacher."""
    kind = cfg.teacher.annotation
    return {"annotation": kind} | ({"search": common.search_settings(cfg)} if kind == "search" else {})


def stored_annotation(cfg: DictConfig, dataset: Path) -> dict[str, Any] | None:
    """Provenance of the predictions that came with a dataset, if they are of the kind that the config asks for."""
    data = TrajectoryDataset(dataset)
    if not all(data.has_column(name) for name in build.TEACHER_COLUMNS):
        return None
    first, *others = (data.column_provenance(name) for name in build.TEACHER_COLUMNS)
    wanted = annotation_settings(cfg)
    same = all(each == first for each in others) and first == wanted | {"teacher": first.get("teacher")}
    return first if same else None


def is_annotated(dataset: Path, provenance: dict[str, Any]) -> bool:
    """Whether the columns of that provenance are beside the data."""
    data = TrajectoryDataset(dataset)
    return all(data.has_column(name, provenance=provenance) for name in build.TEACHER_COLUMNS)


def annotate(cfg: DictConfig, task: str, dataset: Path, teacher: Path) -> dict[str, Any]:
    """Store the teacher's policy and value beside the data, unless they are there; returns their provenance."""
    provenance = annotation_of(cfg, teacher)
    if is_annotated(dataset, provenance):
        return provenance
    data = TrajectoryDataset(dataset)
    model, _ = build.load_model(cfg, teacher)
    planner = build.planner(cfg, model, "annotate", task)
    mask = get_task(task).action_mask.to(common.device_of(cfg))
    with ExitStack() as stack:
        # A column that an earlier run left unfinished is continued.
        writers = [
            stack.enter_context(data.column_writer(name, provenance=provenance))
            for name in build.TEACHER_COLUMNS
        ]
        done = min(writer.num_episodes for writer in writers)
        with progress(data.num_episodes, description=f"annotate {task}", unit="episode") as bar:
            bar.update(done)
            for number in range(done, data.num_episodes):
                rows = data.episode(number).to(common.device_of(cfg))
                columns = teacher_columns(
                    planner, rows, mask, source=cfg.teacher.annotation, frame_stack=cfg.env.frame_stack
                )
                for writer, values in zip(writers, columns, strict=True):
                    if writer.num_episodes == number:
                        writer.add(values.cpu().numpy())
                bar.update()
    return provenance


@hydra.main(config_path="../configs", config_name="train_teacher", version_base="1.3")
@partial(common.friendly, data_parallel=True)
def main(cfg: DictConfig) -> None:
    inputs, task = Inputs(cfg), common.target_of(cfg)
    teacher = inputs.teacher(task)
    inputs.annotated(task)
    common.say(f"teacher: {teacher}\nannotated dataset: {inputs.dataset(task)}")


if __name__ == "__main__":
    common.launch(main)
