"""What the pictures show, as rows of numbers: a picture is drawn from its rows, and the same rows are its CSV file."""

from __future__ import annotations

import csv
import math
from typing import Any

import numpy as np

from xtra_rl.evaluation import aggregates
from xtra_rl.evaluation.figures import Series
from xtra_rl.report.collect import Group
from xtra_rl.report.measures import (
    Normalisation,
    Scores,
    baseline,
    complete,
    improvement,
    measured,
    normalisations,
    reference,
    same_runs,
    score_row,
    statistics_of,
)
from xtra_rl.runs.record import Run
from xtra_rl.studies.plan import System

Rows = list[dict[str, Any]]


def learning_rows(group: Group) -> Rows:
    """Evaluations by game, system and env step: mean over seeds and its interval.

    A system that takes no env steps (behaviour cloning, zero-shot play) has one row, at its end, without a step.
    """
    rows: Rows = []
    for target in group.study.targets:
        for system in group.study.systems:
            for step, values in curve(group, system.name, target).items():
                rows.append(score_row(measured(values), game=target, system=system.label, env_step=step))
    return rows


def baseline_rows(group: Group) -> Rows:
    """Random play and the best constant action on each game: what learning has to come above. As ``learning_rows``."""
    rows: Rows = []
    for name, label in {"random": "random play", "constant": "best constant action"}.items():
        for target in group.study.targets:
            if (value := baseline(group, name, target)) is not None:
                rows.append(score_row(value, game=target, system=label, env_step=None))
    return rows


def curve(group: Group, system: str, target: str) -> dict[int | None, list[float]]:
    """Mean return of each seed at the steps that all of a cell's runs were evaluated at."""
    runs = group.cells.get((system, target), ())
    curves = [_by_step(run.evaluations(group.mode)) for run in runs]
    if not any(step for each in curves for step in each):
        final = list(group.scores(system, target).values())
        return {None: final} if final else {}
    common = sorted(set.intersection(*(set(each) for each in curves)))
    return {step: [each[step] for each in curves] for step in common}


def _by_step(series: Series | None) -> dict[int, float]:
    if series is None:
        return {}
    pairs = zip(series.env_step, series.value)
    return {int(step): float(value) for step, value in pairs if math.isfinite(step) and math.isfinite(value)}


def aggregate_rows(group: Group) -> Rows:
    """Mean normalised score over the games by env step, at the steps that all games of a system share.

    Only systems that were evaluated on all games of the most complete one.
    """
    curves = {
        system.name: {target: curve(group, system.name, target) for target in group.study.targets}
        for system in group.study.systems
    }
    rows: Rows = []
    for kind, normalise in normalisations(group).items():
        own = {
            name: list(normalise({task: [0.0] for task, points in tasks.items() if any(points)}))
            for name, tasks in curves.items()
        }
        games, names = complete(own)
        for name in names:
            steps = set.intersection(*(set(curves[name][task]) for task in games))
            for step in sorted(step for step in steps if step is not None):
                scores = {task: curves[name][task][step] for task in games}
                place = {"normalised": kind, "system": group.study.system(name).label, "env_step": step}
                rows.append(place | _aggregate_row(group, name, normalise, aggregates.mean, scores))
    return rows


def aggregate_bar_rows(group: Group) -> Rows:
    """Mean, median, interquartile mean and optimality gap of each system that has all games, by way of normalising."""
    rows: Rows = []
    for kind, normalise in normalisations(group).items():
        scores = {system.name: group.by_task(system.name) for system in group.study.systems}
        _, names = complete({name: list(normalise(own)) for name, own in scores.items()})
        for name in names:
            for statistic, of in statistics_of(kind).items():
                place = {"normalised": kind, "statistic": statistic, "system": group.study.system(name).label}
                rows.append(place | _aggregate_row(group, name, normalise, of, scores[name]))
    return rows


def _aggregate_row(
    group: Group, system: str, normalise: Normalisation, statistic: aggregates.Statistic, scores: Scores
) -> dict[str, Any]:
    same = same_runs(group, system, reference(group).name)
    value = normalise.aggregate(statistic, scores, own=same)
    return score_row(value) | {"games": " ".join(normalise(scores))}


def improvement_rows(group: Group) -> Rows:
    """Relative gain of each system over the reference by game; games where it is not defined are left out."""
    rows: Rows = []
    for system in _others(group):
        for target in group.study.targets:
            if (gain := improvement(group, system.name, target)) is not None:
                rows.append(score_row(gain, game=target, system=system.label, over=reference(group).label))
    return rows


def _others(group: Group) -> list[System]:
    return [system for system in group.study.systems if system != reference(group)]


def gain_curve_rows(group: Group) -> Rows:
    """Relative gain over the reference by env step, mean over the games where it is defined at that step."""
    base = {target: curve(group, reference(group).name, target) for target in group.study.targets}
    rows: Rows = []
    for system in _others(group):
        gains: dict[int, dict[str, float]] = {}
        for target in group.study.targets:
            for step, values in curve(group, system.name, target).items():
                if step is not None and step in base[target] and (below := np.mean(base[target][step])) > 0:
                    gains.setdefault(step, {})[target] = float(np.mean(values) / below - 1)
        # The same games at every step, or the curve would jump.
        everywhere = set.intersection(*map(set, gains.values())) if gains else set()
        for step in sorted(gains) if everywhere else ():
            games = [target for target in group.study.targets if target in everywhere]
            rows.append(
                {"system": system.label, "over": reference(group).label, "env_step": step,
                 "mean": float(np.mean([gains[step][target] for target in games])), "games": " ".join(games)}
            )  # fmt: skip
    return rows


def weight_rows(group: Group) -> Rows:
    """Weights of the cross tasks by target, system and env step: mean over seeds, lowest and highest seed."""
    rows: Rows = []
    for (name, target), runs in group.cells.items():
        tasks = sorted({name for run in runs for name in run.metrics if name.startswith("task_weight/")})
        for task in tasks:
            traces = [_by_step(run.metrics.get(task)) for run in runs]
            for step in sorted(set.intersection(*map(set, traces))):
                values = [trace[step] for trace in traces]
                rows.append(
                    {"game": target, "system": group.study.system(name).label,
                     "cross_task": task.partition("/")[2], "env_step": step, "mean": float(np.mean(values)),
                     "low": min(values), "high": max(values), "seeds": len(values)}
                )  # fmt: skip
    return rows


def offline_rows(run: Run) -> Rows:
    """Every episode that a run of ``compare_offline`` played; empty for another run, or where the file is gone."""
    path = run.path / "scores.csv"
    if run.summary.get("recipe") != "compare_offline" or not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
