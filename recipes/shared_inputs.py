"""What the runs of a study are built on, once for all of them: datasets, teachers and students as jobs of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from xtra_rl.files import config_sha256
from xtra_rl.recipes import common
from xtra_rl.recipes.inputs import SHARED_KEYS, Inputs
from xtra_rl.recipes.updates import updates_of
from xtra_rl.studies.costs import Work
from xtra_rl.studies.planning import merge_overrides
from xtra_rl.training.pipeline import ArtifactKind, MissingArtifact

_RECIPES: dict[ArtifactKind, str] = {
    "dataset": "collect_offline",
    "teacher": "train_teacher",
    "student": "distill",
}
#: Settings behind :data:`SHARED_KEYS` that decide an input, with those of what it is made from.
_SECTIONS: dict[ArtifactKind, tuple[str, ...]] = {
    "dataset": ("collect", "num_envs", "artifact_seed", "datasets")
}
_SECTIONS["teacher"] = (*_SECTIONS["dataset"], "teacher", "teachers")
_SECTIONS["student"] = (*_SECTIONS["teacher"], "distill", "teacher_targets", "student")


@dataclass(frozen=True)
class SharedInput:
    """A dataset, a teacher with its annotation, or a student.

    Attributes:
        kind: which of them.
        tasks: it is about.
        key: hash of what decides it; equal ones are one input.
        recipe: that builds it, with the very config of the run that needs it.
        arguments: on that recipe's command line.
        after: names of the inputs that it is built from.
        cfg: of a run that needs it.
    """

    kind: ArtifactKind
    tasks: tuple[str, ...]
    key: str
    recipe: str
    arguments: tuple[str, ...]
    after: tuple[str, ...]
    cfg: DictConfig

    @property
    def name(self) -> str:
        """For people, log files and other jobs."""
        return f"{self.kind}-{'+'.join(self.tasks)}-{self.key}"

    def is_there(self) -> bool:
        """Whether it is built, or given by path."""
        inputs = Inputs(self.cfg, build=False)
        try:
            if self.kind == "dataset":
                inputs.dataset(self.tasks[0])
            elif self.kind == "teacher":
                inputs.annotated(self.tasks[0])
            else:
                inputs.student()
        except MissingArtifact:
            return False
        return True

    def work(self) -> Work | None:
        """How much it is to build; None where that is not known."""
        cfg = self.cfg
        if self.kind == "teacher":
            return Work(train_steps=cfg.teacher.train_steps)
        if self.kind == "student":
            steps = cfg.distill.train_steps
            return Work(offline_steps=steps) if cfg.distill.targets == "teacher" else Work(train_steps=steps)
        settings = cfg.collect
        if settings.policy != "efficientzero":
            return None
        games = settings.episodes * settings.checkpoints
        return Work(settings.env_steps, updates_of(cfg)["collect.env_steps"], 0, games, settings.max_steps)


def inputs_of(recipe: str, cfg: DictConfig, overrides: Sequence[str]) -> list[SharedInput]:
    """The inputs of a run, each behind those that it is built from.

    Args:
        recipe: of the run.
        cfg: of the run.
        overrides: its command line.
    """
    arguments = (f"--config-name={recipe}", *(text for text in overrides if not text.startswith("seed=")))

    def one(kind: ArtifactKind, tasks: Sequence[str], after: Sequence[SharedInput] = ()) -> SharedInput:
        if kind == "student":
            line = merge_overrides(arguments, [f"cross_tasks=[{','.join(tasks)}]"])
        else:  # A cross task of the run is the target here.
            kept = [text for text in arguments if not text.startswith("cross_tasks=")]
            line = merge_overrides(kept, [f"target={tasks[0]}"])
        names = tuple(each.name for each in after)
        return SharedInput(kind, tuple(tasks), _key(kind, tasks, cfg), _RECIPES[kind], line, names, cfg)

    cross = common.cross_tasks_of(cfg) if _uses_cross_tasks(recipe, cfg) else []
    data = {task: one("dataset", [task]) for task in cross}
    if recipe == "behaviour_cloning":
        return [*data.values(), one("dataset", [common.target_of(cfg)])]
    found = list(data.values())
    if recipe == "xtra_finetune" and cross:
        if cfg.cross_task or cfg.distill.targets == "teacher":
            found += [one("teacher", [task], [data[task]]) for task in cross]
        if cfg.pretrained and cfg.student is None:
            found.append(one("student", cross, found))
    return found


def _uses_cross_tasks(recipe: str, cfg: DictConfig) -> bool:
    if recipe == "xtra_finetune":
        return bool(cfg.cross_task or (cfg.pretrained and cfg.student is None))
    return bool(cfg[recipe].pretrain)


def _key(kind: ArtifactKind, tasks: Sequence[str], cfg: DictConfig) -> str:
    """Hash of what decides an input; the run's seed does not, since all seeds share one."""
    settings = common.without_machine(common.plain(cfg))
    names = (*SHARED_KEYS, *_SECTIONS[kind], "scale", *(["curl"] if cfg.collect.policy == "curl" else []))
    decisive = {name: settings[name] for name in names if name != "seed"}
    return config_sha256({"tasks": list(tasks), **decisive})[:8]
