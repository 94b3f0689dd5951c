"""The study that a command line asks for, and the one that its folder then has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xtra_rl.envs import get_task
from xtra_rl.recipes import common
from xtra_rl.recipes.costs import CONFIGS, settings
from xtra_rl.studies import Study, System, planning, read_study
from xtra_rl.studies.plan import STUDY_FILE
from xtra_rl.studies.status import check_same_plan


def plan(cfg: DictConfig, given: Sequence[str]) -> Study:
    """The study that the config asks for; ``given`` are overrides of every run."""
    files = sorted((CONFIGS / "experiment").glob("*.yaml"))
    experiments: dict[str, Any] = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in files}
    if own := [text for text in given if text.startswith(("target=", "seed="))]:
        raise ValueError(f"{own[0]} is of one run; a study has targets=[...] and seeds=...")
    seeds = range(cfg.seeds) if isinstance(cfg.seeds, int) else sorted(set(cfg.seeds))
    if not seeds or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds is {cfg.seeds}; expected how many, or a list of such as 0")
    if cfg.parallel < 1:
        raise ValueError(f"parallel is {cfg.parallel}; expected at least 1")
    if cfg.resume != "auto":
        raise ValueError(
            f"resume is {cfg.resume!r}; a study goes on where it was left: move its folder away to begin it anew"
        )
    if "experiment" not in cfg:
        raise ValueError(f"experiment is not given; expected one of {', '.join(experiments)}")

    def settings_of(system: System) -> dict[str, Any]:
        return settings(system.recipe, (f"scale={cfg.scale}", *system.overrides))

    members = planning.members_of(cfg.experiment.name, experiments, settings_of, given)
    if names := _listed(cfg.systems):
        known = [member.system.name for member in members]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"systems has {unknown[0]!r}; {cfg.experiment.name} has {', '.join(known)}")
        members = [member for member in members if member.system.name in names]
    return planning.plan_study(
        common.plain(cfg.experiment),
        members,
        scale=cfg.scale,
        seeds=seeds,
        targets=list(dict.fromkeys(get_task(name).name for name in _listed(cfg.targets))) or None,
    )


def _listed(value: Any) -> list[str]:
    """One name, or a list of them."""
    return [value] if isinstance(value, str) else list(value or [])


def whole_plan(folder: Path, study: Study) -> Study:
    """The study together with what was planned in its folder before.

    Raises:
        ValueError: if the folder has another study, or runs with other settings than are planned.
    """
    if (folder / STUDY_FILE).is_file():
        study = planning.extended(study, read_study(folder))
    check_same_plan(folder, study)
    return study
