"""All runs of a table or a figure of the paper: planned, priced, run side by side, resumed, scored.

What runs share (datasets, teachers, students) is built once, before them. Every run is a process of its own with a log
in its directory; one that crashes is started again (retries=1), goes on from its checkpoint, and if it fails once more
is listed at the end, and in the report, and stops nobody else. Ctrl-C and SIGTERM let all runs save; the same command
goes on. Commands:

    python recipes/study.py experiment=table1 scale=smoke seeds=2 targets=[assault] plan_only=true
    python recipes/study.py experiment=table1 scale=laptop seeds=2 targets=[assault,alien] parallel=2 threads=1
    python recipes/study.py experiment=figure7 scale=paper device=cuda logger=[csv,wandb]
    CUDA_VISIBLE_DEVICES=1 python recipes/study.py experiment=table1 scale=paper shard=2/4
    python recipes/study.py -m hydra/launcher=joblib experiment=table1 scale=laptop shard=1/2,2/2
    python recipes/study.py -m hydra/launcher=submitit_slurm experiment=table1 scale=paper shard=1/4,2/4,3/4,4/4

Launchers: pip install -c constraints.txt -e ".[launchers]". Exit status: 0; 1 if a run failed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from xtra_rl.evaluation.report import format_table
from xtra_rl.recipes import common
from xtra_rl.recipes.costs import compose_run, cost_table
from xtra_rl.recipes.shared_inputs import SharedInput, inputs_of
from xtra_rl.recipes.study_plan import plan, whole_plan
from xtra_rl.studies import PlannedRun, Study, planning, write_study
from xtra_rl.studies.jobs import RUN_LOG, Job, Outcome, run_jobs
from xtra_rl.studies.status import path_of, planned_run, problem_of, score_rows, status_of
from xtra_rl.training.progress import progress
from xtra_rl.wording import first_of

#: Keys that this recipe gives to every run itself; all others are handed on as they are.
_OWN = ("experiment", "scale", "seeds", "targets", "systems", "run_dir", "artifacts", "device", "threads")
_OWN += ("parallel", "retries", "shard", "plan_only", "estimate", "resume")


def shared_inputs(cfg: DictConfig, study: Study, runs: Sequence[PlannedRun]) -> dict[str, list[SharedInput]]:
    """What each of these runs is built on, by its directory."""

    @cache
    def needed(system: str, target: str) -> list[SharedInput]:
        run = next(run for run in runs if (run.system, run.target) == (system, target))
        overrides = planning.merge_overrides(run.overrides, [f"artifacts={cfg.artifacts}"])
        recipe = study.system(system).recipe
        return inputs_of(recipe, compose_run(recipe, overrides), overrides)

    return {run.run_dir: needed(run.system, run.target) for run in runs}


def make_jobs(
    cfg: DictConfig, folder: Path, study: Study, runs: Sequence[PlannedRun], inputs: dict[str, list[SharedInput]],
    missing: Sequence[SharedInput],
) -> list[Job]:  # fmt: skip
    """A job for each input that is missing and for each of these runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = common.jobs_beside(planning.parse_shard(cfg.shard)[1])
    threads = cfg.threads or max(1, cores // (cfg.parallel * beside))
    places = [f"artifacts={cfg.artifacts}", f"device={cfg.device}", f"threads={threads}"]

    def command(recipe: str, overrides: Sequence[str], *more: str) -> tuple[str, ...]:
        script = Path(__file__).resolve().with_name(f"{recipe}.py")
        return (sys.executable, str(script), *planning.merge_overrides(overrides, places, more))

    jobs = [
        Job(
            each.name,
            command(each.recipe, each.arguments),
            folder / "inputs" / f"{each.name}.txt",
            each.after,
        )
        for each in missing
    ]
    for run in runs:
        path = path_of(folder, run)
        line = command(study.system(run.system).recipe, run.overrides, f"run_dir={path}")
        after = tuple(each.name for each in inputs[run.run_dir])

        def check(run: PlannedRun = run) -> str | None:
            return problem_of(planned_run(folder, run))

        jobs.append(Job(f"{run.system} {run.target} seed {run.seed}", line, path / RUN_LOG, after, check))
    return jobs


def run_all(cfg: DictConfig, jobs: Sequence[Job]) -> list[Outcome]:
    """Run jobs behind a progress bar; returns those that failed, or that succeeded only when started again."""
    with progress(len(jobs), description="study", unit="job") as bar:

        def ended(outcome: Outcome) -> None:
            result = f"failed: {outcome.problem}" if outcome.problem else f"done in {outcome.seconds:.0f} s"
            common.say(f"{outcome.job.name}: {result}")
            bar.update()

        def started(job: Job) -> None:
            common.say(f"{job.name}: started, log {job.log}")

        def queued_again(job: Job, problem: str) -> None:
            common.say(f"{job.name}: failed, will be started again: {problem}")

        outcomes = run_jobs(
            jobs,
            parallel=cfg.parallel,
            retries=cfg.retries,
            on_start=started,
            on_retry=queued_again,
            on_end=ended,
        )
    return [outcome for outcome in outcomes if outcome.problem or outcome.retried]


def study(cfg: DictConfig, given: Sequence[str] = ()) -> list[Outcome]:
    """Plan, print, run what is missing, print scores; returns the jobs that failed."""
    planned = plan(cfg, given)
    folder = Path(cfg.run_dir or f"studies/{planned.experiment}-{planned.scale}")
    whole = whole_plan(folder, planned)
    runs = planning.shard_of(planning.distinct_runs(planned), cfg.shard)
    left = [run for run in runs if status_of(planned_run(folder, run)) != "finished"]
    needed = shared_inputs(cfg, planned, runs)
    inputs = {run.run_dir: needed[run.run_dir] for run in left}
    every = {each.name: each for parts in inputs.values() for each in parts}
    there = {name: (each, each.is_there()) for name, each in every.items()}
    common.say(cost_table(cfg, folder, planned, runs, list(there.values())))
    if more := len(planning.distinct_runs(whole)) - len(planning.distinct_runs(planned)):
        common.say(f"planned before, and left as they are: {more} more runs")
    missing = [each for each, is_there in there.values() if not is_there]
    before = {each.name for run in runs if run.run_dir not in inputs for each in needed[run.run_dir]}
    if anew := [each.name for each in missing if each.name in before]:
        common.say(
            f"finished runs had {first_of(anew, 3)}, which will be made anew: the same on the same kind of"
            " processor alone, elsewhere runs of two students would stand side by side"
        )
    if cfg.plan_only:
        return []
    write_study(folder, whole)

    # Parts of a study begin with different inputs; one that another part is building is waited for.
    number, count = planning.parse_shard(cfg.shard)
    first = len(missing) * (number - 1) // count
    jobs = make_jobs(cfg, folder, planned, left, inputs, missing[first:] + missing[:first])
    notable = run_all(cfg, jobs) if jobs else []

    scores = score_rows(planned, [(run, planned_run(folder, run)) for run in planned.runs])
    common.say(
        f"\nmean return over the seeds that are finished\n{format_table(scores)}\n\nstudy     {folder}"
        f"\nreport    python recipes/report.py {folder}"
    )
    for outcome in notable:
        attempts = [*outcome.retried, *([outcome.problem] if outcome.problem else [])]
        word = "failed   " if outcome.problem else "retried  "
        common.say(f"{word} {outcome.job.name}: {'; then '.join(attempts)}\n          log {outcome.job.log}")
    return [outcome for outcome in notable if outcome.problem]


@hydra.main(config_path="../configs", config_name="study", version_base="1.3")
@common.friendly
def main(cfg: DictConfig) -> None:
    failed = study(cfg, [text for text in HydraConfig.get().overrides.task if text.split("=")[0] not in _OWN])
    if failed and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise RuntimeError(f"{len(failed)} jobs of shard {cfg.shard} failed")  # the other parts still run
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    common.launch(main)
