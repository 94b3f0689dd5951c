"""All runs of some experiments and the inputs that they share, with what each takes: rows of the capacity plan."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from xtra_rl.recipes import common
from xtra_rl.recipes.costs import compose_run, work_of
from xtra_rl.recipes.shared_inputs import SharedInput, inputs_of
from xtra_rl.recipes.study import plan
from xtra_rl.studies import System, planning
from xtra_rl.studies.capacity import Case, case_name, fresh_share
from xtra_rl.studies.costs import Work
from xtra_rl.studies.schedule import Task

_KEPT_MODELS = 3  # the best, the last and the exported one, beside those of each evaluation
_CHECKPOINT_COPIES = 5  # weights, momentum, two of the target network, statistics


@dataclass(frozen=True)
class PlannedJob:
    """A run or input; one that cannot be priced takes no time.

    Attributes:
        kind: row of the table.
        task: with its seconds.
        work: how much it is to do; None where that is not known.
    """

    kind: str
    task: Task
    work: Work | None


def fresh_of(cfg: DictConfig) -> float:
    """Share of the observations that reanalysis encodes: with half of the replay that there is in the end."""
    settings = cfg.targets
    if not settings.memory_bytes:
        return 1.0
    # The states of the unroll, whose policies are searched, and those behind them that their values bootstrap from.
    positions = settings.unroll_steps + 1 + min(settings.td_steps, settings.unroll_steps)
    draws = cfg.target_interval * cfg.batch_size * positions
    return fresh_share(cfg.finetune.env_steps / 2, draws)


def measured_of(cfg: DictConfig) -> float:
    """Share of the updates that measure task weights."""
    schedule, updates = cfg.task_weight_schedule, cfg.finetune.env_steps * cfg.finetune.replay_ratio
    if not (cfg.cross_task and cfg.task_weights):
        return 0.0
    return schedule.window / schedule.cycle * max(1 - schedule.start / updates, 0.0)


def case_of(cfg: DictConfig, cases: Mapping[str, Case], *, alone: bool) -> Case:
    """The calibrated network that a run comes nearest to, by its depth, with the batch of the run."""
    depths = {each: abs(int(each.split()[0]) - cfg.model.num_blocks) for each in cases}
    blocks = int(min(depths, key=lambda each: depths[each]).split()[0])
    crossed = bool(cfg.cross_task) and not alone
    batch = cfg.batch_size + (cfg.cross_batch_size if crossed else 0)
    return replace(cases[case_name(blocks, crossed)], batch=batch)


def jobs_of(
    experiments: Sequence[str], scale: str, seeds: int, cases: Mapping[str, Case], episode_steps: float
) -> list[PlannedJob]:
    """Each run and input of the experiments once, those that are needed first."""
    jobs: dict[str, PlannedJob] = {}
    for experiment in experiments:
        study = plan(
            compose_run("study", [f"experiment={experiment}", f"scale={scale}", f"seeds={seeds}"]), []
        )
        configs: dict[str, DictConfig] = {}
        inputs: dict[tuple[str, str], list[SharedInput]] = {}
        for run in planning.distinct_runs(study):
            name = os.path.normpath(f"{experiment}-{scale}/{run.run_dir}")
            if name in jobs:
                continue
            system, cell = study.system(run.system), (run.system, run.target)
            if run.system not in configs:
                configs[run.system] = compose_run(system.recipe, run.overrides)
            if cell not in inputs:
                # Of a system's runs, which differ by game and seed alone, one is composed: that takes longest here.
                cfg = OmegaConf.merge(configs[run.system], {"target": run.target})
                inputs[cell] = inputs_of(system.recipe, cfg, run.overrides)  # type: ignore[arg-type]
            for each in inputs[cell]:
                if each.name not in jobs:
                    jobs[each.name] = input_job(each, cases, episode_steps)
            after = tuple(each.name for each in inputs[cell])
            jobs[name] = run_job(name, system, configs[run.system], after, cases, episode_steps)
    return list(jobs.values())


def input_job(each: SharedInput, cases: Mapping[str, Case], episode_steps: float) -> PlannedJob:
    """A dataset, teacher or student; each is about one batch, without cross tasks beside it."""
    work = each.work()
    rates = case_of(each.cfg, cases, alone=True).rates(episode_steps=episode_steps)
    kind = f"{each.kind}s" if work else f"{each.kind}s that CURL plays"
    return PlannedJob(kind, Task(each.name, rates.seconds(work) if work else 0.0, each.after), work)


def run_job(
    name: str, system: System, cfg: DictConfig, after: tuple[str, ...], cases: Mapping[str, Case], episode_steps: float
) -> PlannedJob:  # fmt: skip
    """A run with its evaluations."""
    work = work_of(system.recipe, cfg)
    case = case_of(cfg, cases, alone=system.recipe != "xtra_finetune")
    rates = case.rates(episode_steps=episode_steps, fresh=fresh_of(cfg), measured=measured_of(cfg))
    return PlannedJob(system.label, Task(name, rates.seconds(work) if work else 0.0, after), work)


def work_rows(jobs: Sequence[PlannedJob]) -> list[dict[str, Any]]:
    """Number, hours of one and of all by kind."""
    rows = []
    for kind in dict.fromkeys(job.kind for job in jobs):
        members = [job for job in jobs if job.kind == kind]
        hours = sum(job.task.seconds for job in members) / 3600
        known = all(job.work for job in members)
        rows.append(
            {
                "what": kind,
                "number": len(members),
                "hours each": hours / len(members) if known else "not priced",
                "GPU hours": hours if known else "not priced",
            }
        )
    total = sum(job.task.seconds for job in jobs) / 3600
    return [*rows, {"what": "all", "number": len(jobs), "hours each": "", "GPU hours": total}]


def share_rows(cases: Mapping[str, Case], scale: str) -> list[dict[str, Any]]:
    """Percent of the seconds of an env step with its updates, evaluations left out."""
    cfg = compose_run("xtra_finetune", [f"scale={scale}"])
    fresh, ratio = fresh_of(cfg), cfg.finetune.replay_ratio
    rows = []
    for name, case in cases.items():
        parts = {key: ratio * line.at(case.batch) for key, line in case.parts.items()}
        parts["encode"] *= fresh
        parts = {"act": case.act(), **parts}
        total = sum(parts.values())
        row: dict[str, Any] = {"network": name, "ms an env step and its update": 1e3 * total}
        rows.append(row | {key: f"{100 * value / total:.0f} %" for key, value in parts.items()})
    return rows


def memory_rows(
    scale: str,
    cases: Mapping[str, Case],
    episode_steps: float,
    compression: float,
    jobs: Sequence[PlannedJob],
) -> list[dict[str, Any]]:
    """Gigabytes of a run, and of all files together."""
    cfg = compose_run("xtra_finetune", [f"scale={scale}"])
    case = max(cases.values(), key=lambda each: (each.tasks, each.parameters))
    channels, height, width = common.frame_shape(cfg)
    frame = channels * height * width
    rows = min(cfg.replay.capacity, cfg.finetune.env_steps)
    games = cfg.collect.episodes * cfg.collect.checkpoints
    dataset = games * min(episode_steps, cfg.collect.max_steps) * frame / compression
    weights = 4 * case.parameters
    evaluations = -(-cfg.finetune.env_steps // cfg.eval.every) + 1
    run = weights * (evaluations + _KEPT_MODELS + _CHECKPOINT_COPIES * cfg.checkpoint.keep)
    datasets = sum(job.kind.startswith("datasets") for job in jobs)
    runs = sum("/runs/" in job.task.name for job in jobs)
    gigabytes = {
        "GPU, the largest run: reserved, measured": case.gpu_bytes,
        "GPU: encodings that are kept, at most": cfg.targets.memory_bytes,
        "RAM: frames of the target's replay": rows * frame,
        "disk: a dataset": dataset,
        f"disk: all {datasets} datasets": datasets * dataset,
        "disk: models and checkpoints of a run": run,
        f"disk: all {runs} runs": runs * run,
    }
    return [{"what": name, "GB": value / 1e9} for name, value in gigabytes.items()]
