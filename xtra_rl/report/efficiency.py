"""How much sooner a system learns than the reference: ratios at parts of the budget, env steps to the same score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xtra_rl.evaluation import aggregates
from xtra_rl.report.collect import Group
from xtra_rl.report.curves import curve
from xtra_rl.report.measures import Measured, Normalise, aggregate, in_units_of, reference, score_row
from xtra_rl.report.tables import Cell, Row, Table, cell

#: Parts of the budget that are looked at.
PARTS = {"a quarter": 0.25, "a half": 0.5, "the whole": 1.0}

Points = Mapping[int, Sequence[float]]
"""Score of each seed by env step."""


def efficiency_table(group: Group) -> Table | None:
    """Each system against the reference at parts of the budget; ``None`` if nobody was evaluated on the way."""
    first = reference(group)
    columns = [f"{what} at {part}" for part in PARTS for what in ("IQM ratio", "P(better)")]
    columns.append(f"env steps to {first.label}'s final score")
    rows, numbers = [], []
    for system in group.study.systems:
        ours, theirs, steps = _shared(group, system.name, first.name)
        if system == first or not ours:
            continue
        end, games = steps[-1], " ".join(ours)
        normalise = in_units_of({task: float(np.mean(points[end])) for task, points in theirs.items()})
        cells: list[Cell] = []
        for part, share in PARTS.items():
            step = max((step for step in steps if 0 < step <= share * end), default=None)
            for what, value in _compared(ours, theirs, step, normalise).items():
                cells.append(cell(value, decimals=2))
                place = {"system": system.label, "over": first.label, "statistic": what, "part": part}
                numbers.append(score_row(value, **place, env_step=step, games=games))
        level = {step: aggregates.mean(normalise(_at(ours, step))) for step in steps}
        reached = next((step for step in steps if level[step] >= 1), None)
        text = "not reached" if reached is None else f"{reached:,} of {end:,}"
        cells.append(Cell(text, value=float("inf") if reached is None else reached))
        numbers.append({"system": system.label, "over": first.label, "statistic": "steps", "mean": reached})
        rows.append(Row(system.label, tuple(cells)))
    if not rows:
        return None
    averaged = f"{group.last} evaluations up to there" if group.last > 1 else "the evaluation there"
    caption = (
        f"Scores ({averaged}) over {first.label}'s final mean on the same game; IQM: interquartile mean over games and"
        f" seeds. A ratio of 1 and a probability of 0.5 mean no difference; in brackets 95 % bootstrap intervals over"
        f" seeds. Last column: the first evaluation at which the mean over games and seeds is at {first.label}'s final"
        " one. Only games that both were evaluated on."
    )
    return Table("efficiency", "Sample efficiency", caption, "system", tuple(columns), tuple(rows), numbers)


def _shared(group: Group, system: str, first: str) -> tuple[dict[str, Points], dict[str, Points], list[int]]:
    """Trailing averages of both on the games where the reference ends above zero, and the steps that all games share.

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
        return {}, {}, []
    above = [target for target, (_, theirs) in both.items() if np.mean(theirs[steps[-1]]) > 0]
    ours, theirs = ({target: both[target][place] for target in above} for place in (0, 1))
    return ours, theirs, steps


def trailing(points: Mapping[int | None, Sequence[float]], last: int) -> dict[int, list[float]]:
    """Average of each seed's last evaluations up to each env step; play before the first step stands alone.

    Example:
        >>> trailing({0: [1.0], 10: [2.0], 20: [4.0]}, 2)
        {0: [1.0], 10: [2.0], 20: [3.0]}
    """
    steps = sorted(step for step in points if step is not None)
    windows = {step: [s for s in steps if 0 < s <= step][-last:] or [step] for step in steps}
    return {step: np.mean([points[s] for s in window], axis=0).tolist() for step, window in windows.items()}


def _compared(
    ours: Mapping[str, Points], theirs: Mapping[str, Points], step: int | None, normalise: Normalise
) -> dict[str, Measured | None]:
    if step is None:
        return {"IQM ratio": None, "P(better)": None}
    x, y = _at(ours, step), _at(theirs, step)
    return {
        "IQM ratio": aggregate(_iqm_ratio, normalise(x), normalise(y)),
        "P(better)": aggregate(aggregates.probability_of_improvement, x, y),
    }


def _at(points: Mapping[str, Points], step: int) -> dict[str, Sequence[float]]:
    return {task: each[step] for task, each in points.items()}


def _iqm_ratio(x: aggregates.Scores, y: aggregates.Scores) -> aggregates.Estimate:
    below = aggregates.interquartile_mean(y)
    if np.any(below <= 0):
        raise ValueError("the baseline's interquartile mean is not positive")
    return aggregates.interquartile_mean(x) / below
