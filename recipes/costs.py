"""What a study costs: how much its runs are to do, and how fast this machine does it, measured and remembered."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from xtra_rl.evaluation.baselines import random_returns
from xtra_rl.evaluation.evaluate import evaluate
from xtra_rl.evaluation.report import format_table
from xtra_rl.files import config_sha256, read_json, write_json
from xtra_rl.kernels.benchmark_machine import machine
from xtra_rl.recipes import build, common, profile_training
from xtra_rl.recipes.shared_inputs import SharedInput
from xtra_rl.recipes.updates import updates_of
from xtra_rl.studies import PlannedRun, Study
from xtra_rl.studies.costs import Item, Rates, Work, cost_rows, read_rates
from xtra_rl.studies.planning import merge_overrides
from xtra_rl.studies.status import planned_run, status_of

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
_MEASURE = ("profile.updates=3", "profile.warmup=1", "profile.fill=600")
_GAME_STEPS = 4  # of the evaluation that is timed

#: What the speed of a step depends on, besides the machine.
_DECISIVE = ("env", "num_envs", "model", "search", "inference", "targets", "loss", "optim")
_DECISIVE += (
    "augmentation",
    "augment",
    "batch_size",
    "autocast",
    "compile",
    "device",
    "target",
    "cross_task",
)


def compose_run(recipe: str, overrides: Sequence[str]) -> DictConfig:
    """The settings of a run with this command line."""
    if GlobalHydra.instance().is_initialized():  # Inside of a recipe, with the same folder.
        return compose(recipe, overrides=list(overrides))
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(recipe, overrides=list(overrides))


@cache
def settings(recipe: str, overrides: tuple[str, ...]) -> dict[str, Any]:
    """What :func:`compose_run` gives as plain data, which nobody may change."""
    return common.plain(compose_run(recipe, overrides))


class Calibration:
    """Rates by command line, measured at most once on a machine.

    Args:
        path: file that keeps them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._kept: dict[str, Any] = {}

    def rates(self, overrides: Sequence[str], *, alone: bool) -> Rates:
        """Rates of a run; ``alone`` without cross tasks beside the target, as inputs are built."""
        cfg = compose_run("profile", merge_overrides(overrides, ["cross_task=false"] * alone, _MEASURE))
        settings = common.plain(cfg)
        key = {name: settings[name] for name in _DECISIVE} | {"machine": machine()}
        if cfg.cross_task:
            key |= {"cross": [cfg.cross_batch_size, len(common.cross_tasks_of(cfg))]}
        name = config_sha256(key)[:16]
        if name not in self._kept and self.path.is_file():
            self._kept = {key: asdict(rates) for key, rates in read_rates(read_json(self.path)).items()}
        if name not in self._kept:
            beside = f", {len(common.cross_tasks_of(cfg))} cross tasks beside it" if cfg.cross_task else ""
            common.say(
                f"measuring a few steps at scale {cfg.scale}: {cfg.model.num_blocks} blocks a stage,"
                f" batch {cfg.batch_size}{beside}"
            )
            self._kept[name] = asdict(measure(cfg))
            if (load := _load()) > 1.5:
                common.say(
                    f"other processes kept the machine {load:.1f} times as busy as it can be, so the hours are too"
                    f" many; remove {self.path} to measure anew"
                )
            self.path.parent.mkdir(parents=True, exist_ok=True)  # a plan alone makes no folder
            write_json(self.path, self._kept)
        return Rates(**self._kept[name])


def _load() -> float:
    """Processes that wanted to run in the last minute, by core."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def measure(cfg: DictConfig) -> Rates:
    """Time a few updates, some acting and some steps of an evaluation of this config."""
    found = profile_training.measure(cfg)
    seconds: dict[str, float] = {}
    for row in found["times"]:
        seconds[row["phase"]] = seconds.get(row["phase"], 0.0) + row["seconds"]
    act = seconds.pop("act") / found["env_steps"]
    update = {phase: each / found["updates"] for phase, each in seconds.items()}

    return Rates(
        env_step=act,
        train_step=sum(update.values()),
        offline_step=sum(update.values()) - update.get("reanalyse", 0.0),
        evaluation_step=evaluation_step(cfg),
        episode_steps=episode_steps(cfg, _games(cfg)),
    )


def _games(cfg: DictConfig) -> int:
    """Played at once in an evaluation."""
    return min(cfg.eval.num_envs, cfg.eval.episodes)


def evaluation_step(cfg: DictConfig, rounds: int = _GAME_STEPS) -> float:
    """Seconds of an env step of an evaluation, where as many games run as the config plays at once.

    The more ``rounds`` of all games, the less it matters that starting the emulators takes now longer, now shorter.
    """
    task = common.target_of(cfg)
    planner = build.planner(cfg, build.world_model(cfg, task, "profile"), "evaluate", task)
    options: dict[str, Any] = {"num_episodes": _games(cfg), "env_kwargs": common.env_kwargs(cfg)}
    return _seconds_a_step(lambda steps: evaluate(planner, task, max_steps=steps, **options).lengths, rounds)


def episode_steps(cfg: DictConfig, games: int) -> float:
    """Env steps of a game of random play."""
    played = random_returns(
        common.target_of(cfg),
        max_steps=cfg.eval.max_steps,
        num_episodes=games,
        env_kwargs=common.env_kwargs(cfg),
    )
    return sum(played.lengths) / games


def _seconds_a_step(play: Callable[[int], Sequence[int]], rounds: int = _GAME_STEPS) -> float:
    """Of games that ``play`` cuts off after some steps; what it takes to start the emulators is not counted."""
    play(1)
    clock = [time.perf_counter()]
    lengths = []
    for steps in (1, 1 + rounds):
        lengths.append(sum(play(steps)))
        clock.append(time.perf_counter())
    more = (clock[2] - clock[1]) - (clock[1] - clock[0])
    return max(more, 0.0) / max(lengths[1] - lengths[0], 1)


def work_of(recipe: str, cfg: DictConfig) -> Work | None:
    """How much a run of this recipe is to do, its inputs not counted; None where that is not known."""
    games = cfg.eval.episodes * len(cfg.eval.modes)
    if recipe == "behaviour_cloning":
        # Counted as if the dynamics were unrolled and games searched in: less in truth.
        settings = cfg.behaviour_cloning
        steps = settings.finetune_steps + settings.pretrain * settings.train_steps
        return Work(
            offline_steps=steps, episodes=games * (settings.evaluations + 1), max_steps=cfg.eval.max_steps
        )
    if recipe != "xtra_finetune":
        return None
    env_steps, updates = cfg.finetune.env_steps, updates_of(cfg)["finetune.env_steps"]
    evaluations = math.ceil(env_steps / cfg.eval.every) + 1
    untrained = cfg.eval.episodes * ("untrained" in cfg.eval.baselines)
    return Work(env_steps, updates, 0, games * evaluations + untrained, cfg.eval.max_steps)


def cost_table(
    cfg: DictConfig, folder: Path, study: Study, runs: Sequence[PlannedRun], inputs: Sequence[tuple[SharedInput, bool]]
) -> str:  # fmt: skip
    """What there is of these runs and inputs (and whether they are there), what is left, and the hours of it."""
    calibration = Calibration(folder / "calibration.json")
    device = f"device={cfg.device}"

    @cache
    def run_seconds(name: str) -> float | None:
        run, recipe = next(run for run in runs if run.system == name), study.system(name).recipe
        work = work_of(recipe, compose_run(recipe, run.overrides)) if cfg.estimate else None
        alone = recipe == "behaviour_cloning"
        return calibration.rates([*run.overrides, device], alone=alone).seconds(work) if work else None

    def input_seconds(each: SharedInput) -> float | None:
        # One game stands for all.
        work = each.work() if cfg.estimate else None
        overrides = [text for text in each.arguments if not text.startswith("--")]
        overrides = merge_overrides(overrides, [f"target={runs[0].target}", device])
        return calibration.rates(overrides, alone=True).seconds(work) if work else None

    items = [
        Item(f"{each.kind}s", "finished" if there else "missing", input_seconds(each))
        for each, there in inputs
    ]
    for planned in runs:
        run, system = planned_run(folder, planned), study.system(planned.system)
        took = run.summary.get("wall_seconds") if run is not None and run.status == "finished" else None
        items.append(Item(system.label, status_of(run), run_seconds(system.name), took))
    rows = cost_rows(items)
    left = rows[-1]["hours left"]
    text = f"{study.title} ({study.experiment}), scale {study.scale}\n{format_table(rows)}\n"
    if left is None:
        return f"{text}hours: known for all of it once a run of each kind has ended"
    return (
        f"{text}about {left:.2f} h of work, {left / cfg.parallel:.2f} h with parallel={cfg.parallel} if processes do"
        " not slow each other; from a few measured steps and games of random length, until finished runs say more"
    )
