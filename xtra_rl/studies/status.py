"""What is there of a study: the runs on the disk, and their scores."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xtra_rl.runs.record import Run, read_run
from xtra_rl.runs.settings import changed, yaml_text
from xtra_rl.studies.plan import PlannedRun, Study
from xtra_rl.wording import first_of


def path_of(folder: str | os.PathLike[str], plan: PlannedRun) -> Path:
    """Directory of a planned run; the study's folder need not exist for one that lies beside it."""
    return Path(os.path.normpath(Path(folder) / plan.run_dir))


def planned_run(folder: str | os.PathLike[str], plan: PlannedRun) -> Run | None:
    """A planned run as it lies on the disk; ``None`` if nothing of it is there."""
    try:
        return read_run(path_of(folder, plan))
    except ValueError:  # No folder, or nothing of a run in it yet.
        return None


def status_of(run: Run | None) -> str:
    """``finished``, ``unfinished``, ``broken`` or ``missing``."""
    return run.status if run is not None else "missing"


def problem_of(run: Run | None) -> str | None:
    """Why a run does not count, in one line; ``None`` for a finished one."""
    if run is None:
        return "it left no run directory"
    if run.problem:
        return f"broken: {run.problem}; move {run.path} away to have it run again"
    return None if run.status == "finished" else "it ended without a summary"


def check_same_plan(folder: str | os.PathLike[str], study: Study) -> None:
    """Refuse to count runs that are there and have other settings than are planned for them.

    Raises:
        ValueError: if there are any.
    """
    for plan in study.runs:
        run = planned_run(folder, plan)
        if run is None or run.problem:
            continue
        parts = [
            f"{name} is {yaml_text(here)}, planned is {yaml_text(there)}"
            for name, (here, there) in changed(run.config, study.system(plan.system).settings).items()
        ]
        if parts:
            raise ValueError(
                f"{run.path} has other settings ({first_of(parts, 3)}); pass another run_dir for the study, or"
                f" move {run.path.parents[2]} away"
            )


def score_rows(study: Study, runs: Sequence[tuple[PlannedRun, Run | None]]) -> list[dict[str, Any]]:
    """Mean return of the last evaluation by system and game, over the seeds that are finished.

    Args:
        study: gives the order of rows and columns.
        runs: planned runs with what is there of them.
    """
    scores: dict[tuple[str, str], list[float]] = {}
    for plan, run in runs:
        if run is not None and run.status == "finished" and run.summary["eval/mean_return"] is not None:
            scores.setdefault((plan.target, plan.system), []).append(run.summary["eval/mean_return"])

    def mean(target: str, system: str) -> float | None:
        values = scores.get((target, system))
        return sum(values) / len(values) if values else None

    return [
        {"system": system.label, **{target: mean(target, system.name) for target in study.targets}}
        for system in study.systems
    ]
