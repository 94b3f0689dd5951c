"""How much sooner a system learns than another: ratios at parts of the budget, env steps to the same score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from xtra_rl.evaluation import aggregates
from xtra_rl.report.collect import Group
from xtra_rl.report.curves import curve
from xtra_rl.report.measures import Measured, aggregate, in_units_of, reference, score_row
from xtra_rl.report.tables import Cell, Row, Table, cell
from xtra_rl.studies.plan import System

Points = Mapping[int, Sequence[float]]
"""Score of each seed by env step."""

#: Parts of the budget that are looked at.
PARTS = {"a quarter": 0.25, "a half": 0.5, "the whole": 1.0}

_COLUMNS = tuple(f"{what} at {part}" for part in PARTS for what in ("IQM ratio", "P(better)"))

_READING = (
    "A ratio of 1 and a probability of 0.5 mean no difference; in brackets 95 % bootstrap intervals over the seeds"
    " of both; the units that make games comparable stay."
)


def efficiency_table(group: Group) -> Table | None:
    """Each system against the reference at parts of the budget; ``None`` if nobody was evaluated on the way."""
    first = reference(group)
    columns = (*_COLUMNS, f"env steps to {first.label}'s final score")
    rows, numbers = [], []
    for system in group.study.systems:
        pair = _shared(group, system.name, first.name)
        if system == first or not pair.ours:
            continue
        cells, values = _cells(pair, system, first)
        level = {step: aggregates.mean(pair.normalise(_at(pair.ours, step))) for step in pair.steps}
        reached = next((step for step in pair.steps if level[step] >= 1), None)
        text = "not reached" if reached is None else f"{reached:,} of {pair.steps[-1]:,}"
        cells.append(Cell(text, value=float("inf") if reached is None else reached))
        values.append({"system": system.label, "over": first.label, "statistic": "steps", "mean": reached})
        rows.append(Row(system.label, tuple(cells)))
        numbers += values
    if not rows:
        return None
    caption = (
        f"Scores ({_averaged(group)}) over {first.label}'s final mean on the same game; IQM: interquartile mean over"
        f" games and seeds. {_READING} Last column: the first evaluation at which the mean over games and seeds is at"
        f" {first.label}'s final one. Only games that both were evaluated on."
    )
    return Table("efficiency", "Sample efficiency", caption, "system", columns, tuple(rows), numbers)


def ablation_table(group: Group) -> Table | None:
    """The whole method against each system that lacks a part of it; ``None`` if there is no such pair.

    The reference is another method, not a part of this one: it has :func:`efficiency_table`.
    """
    whole = next((system for system in group.study.systems if system.published == "xtra"), None)
    if whole is None:
        return None
    rows, numbers = [], []
    for system in group.study.systems:
        if system in (whole, reference(group)) or system.recipe != whole.recipe:
            continue
        pair = _shared(group, whole.name, system.name)
        if pair.ours:
            cells, values = _cells(pair, whole, system)
            rows.append(Row(system.label, tuple(cells)))
            numbers += values
    if not rows:
        return None
    caption = (
        f"Scores of {whole.label} ({_averaged(group)}) over each other system's at the same step. {_READING} Only games"
        " that both were evaluated on."
    )
    title = f"{whole.label} against its ablations"
    return Table("ablations", title, caption, "in place of", _COLUMNS, tuple(rows), numbers)


def _averaged(group: Group) -> str:
    return f"the last evaluations there, {group.last} at most" if group.last > 1 else "the evaluation there"


class Pair(NamedTuple):
    """Two systems on the games that both were evaluated on: scores by game and step, in units of the second's end."""

    ours: dict[str, Points]
    theirs: dict[str, Points]
    steps: list[int]

    def normalise(self, scores: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
        """Scores at some step over the second system's final mean on each game."""
        end = self.steps[-1]
        means = {task: float(np.mean(points[end])) for task, points in self.theirs.items()}
        return in_units_of(means)(scores)


def _cells(pair: Pair, system: System, over: System) -> tuple[list[Cell], list[dict[str, Any]]]:
    """Ratio and probability at each part of the budget, to read and as numbers."""
    cells, numbers = [], []
    for part, share in PARTS.items():
        step = max((step for step in pair.steps if 0 < step <= share * pair.steps[-1]), default=None)
        for what, value in _compared(pair, step).items():
            cells.append(cell(value, decimals=2))
            place = {"system": system.label, "over": over.label, "statistic": what, "part": part}
            numbers.append(score_row(value, **place, env_step=step, games=" ".join(pair.ours)))
    return cells, numbers


def _shared(group: Group, system: str, first: str) -> Pair:
    """Trailing averages of both on the games where the second ends above zero, and the steps that all games share.

    Nothing where none of these lies after the start of training.
    """
    both: dict[str, list[Points]] = {
        target: [trailing(curve(group, name, target), group.last) for name in (system, first)]
        for target in group.study.targets
    }
    both = {target: pair for target, pair in both.items() if all(pair)}
    shared = set.intersection(*(set(points) for pair in both.values() for points in pair)) if both else set()
    steps = sorted(shared)
    if not shared - {0}:
        return Pair({}, {}, [])
    above = [target for target, (_, theirs) in both.items() if np.mean(theirs[steps[-1]]) > 0]
    ours, theirs = ({target: both[target][place] for target in above} for place in (0, 1))
    return Pair(ours, theirs, steps)


def trailing(points: Mapping[int | None, Sequence[float]], last: int) -> dict[int, list[float]]:
    """Average of each seed's last evaluations up to each env step; play before the first step stands alone.

    Example:
        >>> trailing({0: [1.0], 10: [2.0], 20: [4.0]}, 2)
        {0: [1.0], 10: [2.0], 20: [3.0]}
    """
    steps = sorted(step for step in points if step is not None)
    windows = {step: [s for s in steps if 0 < s <= step][-last:] or [step] for step in steps}
    return {step: np.mean([points[s] for s in window], axis=0).tolist() for step, window in windows.items()}


def _compared(pair: Pair, step: int | None) -> dict[str, Measured | None]:
    if step is None:
        return {"IQM ratio": None, "P(better)": None}
    x, y = _at(pair.ours, step), _at(pair.theirs, step)
    ours, theirs = pair.normalise(x), pair.normalise(y)
    # Early on the baseline's scores may be negative (Pong, Boxing) or nothing: they have no ratio.
    below = float(aggregates.interquartile_mean(theirs))
    return {
        "IQM ratio": aggregate(_iqm_ratio, ours, theirs) if below > 0 else None,
        "P(better)": aggregate(aggregates.probability_of_improvement, x, y),
    }


def _at(points: Mapping[str, Points], step: int) -> dict[str, Sequence[float]]:
    return {task: each[step] for task, each in points.items()}


def _iqm_ratio(x: aggregates.Scores, y: aggregates.Scores) -> aggregates.Estimate:
    below = aggregates.interquartile_mean(y)
    if np.any(below <= 0):
        raise ValueError("the baseline's interquartile mean is not positive")
    return aggregates.interquartile_mean(x) / below
