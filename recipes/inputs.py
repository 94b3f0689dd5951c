"""The inputs of a recipe: given by path, found in the artifact folder, or built by the recipe before."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xtra_rl import distributed
from xtra_rl.data import TrajectoryDataset
from xtra_rl.data.manifest import fingerprint, read_manifest
from xtra_rl.envs import get_task
from xtra_rl.files import file_sha256
from xtra_rl.recipes import common
from xtra_rl.recipes.plugins import plugin_files
from xtra_rl.training.model_files import read_model_notes
from xtra_rl.training.pipeline import ArtifactKind, MissingArtifact, Pipeline, locked

Annotated = dict[str, tuple[Path, dict[str, Any]]]
"""Datasets by task, with the provenance of their annotation; empty where there is none."""

#: What decides an artifact, by stage: a change of any of these keys makes a new one.
SHARED_KEYS = (
    "seed",
    "env",
    "model",
    "search",
    "targets",
    "target_interval",
    "target_lag",
    "loss",
    "optim",
    "augmentation",
    "augment",
)
SHARED_KEYS += ("replay", "batch_size")


class Inputs:
    """Datasets, teachers and students of one config.

    Args:
        cfg: of any recipe; ``datasets``, ``teachers`` and ``student`` give inputs by path, ``artifacts`` is where the
            others are looked for and built, with the recipe's own scale.
        build: False looks only: what is missing raises :class:`~xtra_rl.training.pipeline.MissingArtifact`, and
            nothing is announced.
    """

    def __init__(self, cfg: DictConfig, *, build: bool = True) -> None:
        # Runs of every seed share one set of inputs, as in the paper.
        self.cfg = OmegaConf.merge(cfg, {"seed": cfg.artifact_seed})
        root = Path(cfg.artifacts)
        if common.how_to_resume(cfg) == "never":
            # A new folder: nothing that exists is reused, and nothing is deleted.
            root = distributed.broadcast(root / f"anew-{datetime.now():%Y%m%d-%H%M%S}")
        self.pipeline = Pipeline(root, cfg.scale, build=build)
        self._announce = common.say if build else lambda text: None
        self._resolved: dict[tuple[str, str], Path] = {}
        self._datasets = {TrajectoryDataset(path).task: path for path in cfg.datasets}
        self._teachers = {read_model_notes(path).metadata["tasks"][0]: path for path in cfg.teachers}
        self._name_unused()

    def _name_unused(self) -> None:
        if not self._datasets and not self._teachers:
            return  # A task of the user's own has no family, and needs none from scratch.
        # Not refused: runs of a study share what is given, and each has its own cross tasks.
        tasks = [common.target_of(self.cfg), *common.cross_tasks_of(self.cfg)]
        for kind, given in (("dataset", self._datasets), ("teacher", self._teachers)):
            for task in given.keys() - set(tasks):
                self._announce(f"{kind} {task}: not used, the run is of {', '.join(tasks)}")

    def _resolve(self, kind: ArtifactKind, name: str, **how: Any) -> Path:
        if (kind, name) not in self._resolved:
            self._resolved[kind, name] = self.pipeline.resolve(kind, name, announce=self._announce, **how)
        return self._resolved[kind, name]

    def _key(self, *sections: str, **more: Any) -> dict[str, Any]:
        names = (*SHARED_KEYS, *sections)
        settings = common.without_machine(common.plain(self.cfg))
        return {name: settings[name] for name in names} | common.unusual_computation(settings) | more

    def _code(self, task: str) -> dict[str, list[str]]:
        """What a game of the user's own may be made of: if any plugin has changed, it is taken for another game."""
        files = plugin_files(list(self.cfg.plugins)).values()  # loaded, so that the task is known
        return {"code": sorted(map(file_sha256, files))} if get_task(task).factory is not None else {}

    def dataset(self, task: str) -> Path:
        """Offline data of a task."""
        from xtra_rl.recipes.collect_offline import collect_offline

        sections = ["collect", "num_envs", *(["curl"] if self.cfg.collect.policy == "curl" else [])]
        return self._resolve(
            "dataset",
            task,
            given=self._datasets.get(task),
            key=self._key(*sections, **self._code(task)),
            build=lambda path: collect_offline(self.cfg, task, path),
            resumable=True,
        )

    def teacher(self, task: str) -> Path:
        """Teacher of a task, trained on its dataset."""
        from xtra_rl.recipes.train_teacher import train_teacher

        given = self._teachers.get(task)
        dataset = None if given else self.dataset(task)
        return self._resolve(
            "teacher",
            task,
            given=given,
            key=self._key(
                teacher={name: self.cfg.teacher[name] for name in ("train_steps", "policy_ratio")},
                dataset=dataset and fingerprint(read_manifest(dataset)),
            ),
            build=lambda path: train_teacher(self.cfg, task, dataset, path),
            resumable=True,
        )

    def annotated(self, task: str) -> tuple[Path, dict[str, Any]]:
        """Dataset of a task with its teacher's predictions beside it, and their provenance.

        One that is given together with such predictions needs no teacher, unless that is given, too.
        """
        from xtra_rl.recipes.train_teacher import annotate, annotation_of, is_annotated, stored_annotation

        dataset = self.dataset(task)
        alone = task in self._datasets and task not in self._teachers
        stored = stored_annotation(self.cfg, dataset) if alone else None
        if stored is not None:
            self._announce(f"teacher {task}: not needed, its predictions are in {dataset}")
            return dataset, stored
        teacher = self.teacher(task)

        def provenance() -> dict[str, Any]:
            wanted = annotation_of(self.cfg, teacher)
            if is_annotated(dataset, wanted):
                return wanted
            if not self.pipeline.builds:
                raise MissingArtifact(f"dataset {task}: {dataset} has no predictions of {teacher}")
            waiting = f"dataset {task}: waiting for another process that is annotating it"
            with locked(dataset / ".annotation.lock", lambda: self._announce(waiting)):
                return annotate(self.cfg, task, dataset, teacher)

        return dataset, distributed.on_main(provenance)

    def student(self) -> Path:
        """Student of the cross tasks."""
        from xtra_rl.recipes.distill import distill

        if self.cfg.distill.targets not in ("teacher", "reanalyze"):
            raise ValueError(
                f"distill.targets is {self.cfg.distill.targets!r}; expected teacher or reanalyze"
            )
        given, tasks = self.cfg.student, common.cross_tasks_of(self.cfg)
        if (
            given and (Path(given) / "config.json").is_file()
        ):  # It knows better than the config what it learnt.
            tasks = read_model_notes(given).metadata.get("tasks") or tasks
        annotated = self.cfg.distill.targets == "teacher"
        datasets: Annotated = {}
        if not given:
            datasets = {
                task: self.annotated(task) if annotated else (self.dataset(task), {}) for task in tasks
            }
        made_from = {
            task: provenance | {"dataset": fingerprint(read_manifest(path))}
            for task, (path, provenance) in datasets.items()
        }
        return self._resolve(
            "student",
            "+".join(tasks),
            given=given,
            key=self._key("distill", "teacher_targets", teachers=made_from)
            | ({} if annotated else {"policy_ratio": self.cfg.teacher.policy_ratio}),
            build=lambda path: distill(self.cfg, datasets, path),
            resumable=True,
        )
