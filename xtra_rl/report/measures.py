"""Numbers of a study with their intervals: cells, what they are read against, scores made comparable between games."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from xtra_rl.envs.tasks import get_task
from xtra_rl.evaluation import aggregates
from xtra_rl.evaluation.metrics import (
    efficientzero_normalized_scores,
    human_normalized_scores,
    task_human_normalized,
)
from xtra_rl.report.collect import Group
from xtra_rl.runs.record import Run
from xtra_rl.studies.plan import System

BASELINES = ("random", "constant", "untrained")
DRAWS = 2000
STATISTICS: dict[str, aggregates.Statistic] = {
    "mean": aggregates.mean,
    "median": aggregates.median,
    "interquartile mean": aggregates.interquartile_mean,
    "optimality gap": aggregates.optimality_gap,
}


class Measured(NamedTuple):
    """Mean over seeds with its 95 % bootstrap interval; one seed has none (NaN).

    ``seeds`` is their number; each is the mean of its episodes.
    """

    mean: float
    low: float
    high: float
    seeds: int


def measured(values: Sequence[float]) -> Measured | None:
    """Mean and interval of some seeds; ``None`` without any.

    Example:
        >>> measured([4.0])
        Measured(mean=4.0, low=nan, high=nan, seeds=1)
        >>> measured([2.0, 2.0, 2.0])
        Measured(mean=2.0, low=2.0, high=2.0, seeds=3)
    """
    return aggregate(aggregates.mean, {"seeds": values}) if values else None


def score_row(measured: Measured | None, **names: Any) -> dict[str, Any]:
    """The numbers for a CSV file; what was not measured is empty."""
    if measured is None:
        return {**names, "mean": None, "low": None, "high": None, "seeds": 0}
    low, high = (value if math.isfinite(value) else None for value in (measured.low, measured.high))
    return {**names, "mean": measured.mean, "low": low, "high": high, "seeds": measured.seeds}


def of_system(group: Group, system: str, target: str) -> Measured | None:
    """A cell: mean over the seeds that count."""
    return measured(list(group.scores(system, target).values()))


def baseline(group: Group, name: str, target: str) -> Measured | None:
    """A baseline on a game: mean over the runs that measured it. Those of one seed play the same games."""
    by_seed: dict[int, list[float]] = {}
    for run in group.counted():
        value = (run.summary.get("baselines") or {}).get(name)
        if run.target == target and value is not None:
            by_seed.setdefault(run.summary["seed"], []).append(value)
    means = [float(np.mean(values)) for values in by_seed.values()]
    # Random and constant play do not know the run's seed: what is the same everywhere was measured once.
    once = name != "untrained" and np.ptp(means or [0.0]) == 0
    return measured(means[:1] if once else means)


def untrained_mode(group: Group) -> str:
    """In which mode the runs played their untrained networks: the last of those that they evaluate in."""
    modes = [run.config.get("eval", {}).get("modes") or ["greedy"] for run in group.counted()]
    return " or ".join(dict.fromkeys(str(each[-1]) for each in modes))


def at_start(group: Group, system: str, target: str) -> Measured | None:
    """Scores before the first env step: of a pretrained system its zero-shot play."""
    return measured(start_scores(group, system, target))


def start_scores(group: Group, system: str, target: str) -> list[float]:
    """The seeds of :func:`at_start`."""
    returns = [start_returns(run, group.mode) for run in group.cells.get((system, target), ())]
    return [float(np.mean(episodes)) for episodes in returns if episodes]


def start_returns(run: Run, mode: str) -> list[float]:
    """Episodes of a pretrained model on a game it has not seen; empty for a run that starts from nothing."""
    cloned = run.config.get("behaviour_cloning")
    pretrained = run.summary["recipe"] == "xtra_finetune" and run.config.get("pretrained") is True
    pretrained |= (
        run.summary["recipe"] == "behaviour_cloning"
        and isinstance(cloned, Mapping)
        and cloned.get("pretrain") is True
    )
    return list((run.summary.get("start/returns") or {}).get(mode, ())) if pretrained else []


Scores = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Normalisation:
    """Makes scores by game comparable; games for which that is not defined are left out.

    Attributes:
        base: seeds by game of the system that stands at 1; ``None`` for human-normalised scores, whose random and human
            play are published constants.
    """

    base: Scores | None = None

    def __call__(self, scores: Scores) -> dict[str, list[float]]:
        """The scores, comparable."""
        if self.base is None:
            return human(scores)
        return in_units_of({task: float(np.mean(values)) for task, values in self.base.items()})(scores)

    def possible(self, tasks: Iterable[str]) -> list[str]:
        """Games that can be compared once everybody has played them: also those that the base has not played yet."""
        if self.base is None:
            return [task for task in tasks if has_human_score(task)]
        return [task for task in tasks if task not in self.base or np.mean(self.base[task]) > 0]

    def aggregate(self, statistic: aggregates.Statistic, scores: Scores, *, own: bool = False) -> Measured:
        """A statistic over games of raw scores, made comparable; the interval has the seeds of the base in it too.

        ``own`` says that the scores are of the base's runs, seed by seed. These are drawn together with their units, so
        that the base is exactly 1 of itself; what no draw changes has no interval.
        """
        if self.base is None:
            return aggregate(statistic, self(scores))
        defined = {task: scores[task] for task in self(scores)}
        base = {task: self.base[task] for task in defined}
        if not own:
            return aggregate(lambda x, y: statistic(_over(x, y)), defined, base)

        def drawn(places: Mapping[str, Any]) -> aggregates.Estimate:
            picked = {task: np.asarray(place, int) for task, place in places.items()}
            x, y = (
                {task: np.asarray(one[task])[place] for task, place in picked.items()}
                for one in (defined, base)
            )
            return statistic(_over(x, y))

        found = aggregate(drawn, {task: range(len(values)) for task, values in defined.items()})
        fixed = math.isclose(found.low, found.high)
        return found._replace(low=math.nan, high=math.nan) if fixed else found


def _over(x: aggregates.Scores, y: aggregates.Scores) -> dict[str, np.ndarray]:
    """Scores over the mean of others on the same game, draw by draw."""
    units = {task: np.asarray(y[task], np.float64).mean(-1, keepdims=True) for task in x}
    if any(np.any(unit <= 0) for unit in units.values()):
        raise ValueError("a mean that scores are relative to is not positive")
    return {task: np.asarray(runs) / units[task] for task, runs in x.items()}


def statistics_of(way: str) -> dict[str, aggregates.Statistic]:
    """What is worth saying of scores normalised that way: a gap to 1 is one to a human tester or to nothing."""
    gap = {"optimality gap"} if way != "human-normalised" else set()
    return {name: statistic for name, statistic in STATISTICS.items() if name not in gap}


def normalisations(group: Group) -> dict[str, Normalisation]:
    """How scores are made comparable between games, by the name of the way.

    ``human-normalised`` has random play at 0 and a human tester at 1. ``relative to ...`` has the study's own
    :func:`reference` at 1, as the paper's "EfficientZero-normalised" scores have; games on which the
    reference's mean is not positive are left out.
    """
    first = reference(group)
    relative = Normalisation(group.by_task(first.name))
    ways = {"human-normalised": Normalisation(), f"relative to {first.label}": relative}
    return {name: way for name, way in ways.items() if way(dict.fromkeys(group.study.targets, [0.0]))}


def human(scores: Scores) -> dict[str, list[float]]:
    """Human-normalised scores; Carnival, Pooyan and tasks of the user's own have none that are published.

    Example:
        >>> human({"pong": [-20.7, 14.6], "carnival": [100.0]})
        {'pong': [0.0, 1.0]}
    """
    return human_normalized_scores({task: scores[task] for task in scores if has_human_score(task)})


def in_units_of(means: Mapping[str, float]) -> Callable[[Scores], dict[str, list[float]]]:
    """Scores over a baseline's mean on the same game.

    Example:
        >>> in_units_of({"alien": 50.0, "hero": 0.0})({"alien": [100.0], "hero": [1.0], "mine": [1.0]})
        {'alien': [2.0]}
    """
    positive = {task: mean for task, mean in means.items() if mean > 0}

    def normalise(scores: Scores) -> dict[str, list[float]]:
        return efficientzero_normalized_scores({t: v for t, v in scores.items() if t in positive}, positive)

    return normalise


def has_human_score(task: str) -> bool:
    """Whether published work has a human score of a game."""
    return task_human_normalized(task, 0.0) is not None


def aggregate(statistic: aggregates.Statistic, *scores: Scores) -> Measured:
    """A statistic over games with its interval over seeds; ``seeds`` is the lowest number of seeds of a game.

    There is no interval where a game has a single seed, or a draw for which the statistic is not defined.
    """
    count = min(len(values) for one in scores for values in one.values())
    if count > 1:
        try:
            interval = aggregates.stratified_bootstrap(statistic, *scores, draws=DRAWS)
            return Measured(*interval, count)
        except ValueError:  # A ratio to a mean that is not positive in some draw.
            pass
    return Measured(float(statistic(*scores)), math.nan, math.nan, count)


def complete(games_of: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """Games of the system that has most of them, and the systems that have all of these.

    An average over games says nothing beside one over other games.

    Example:
        >>> complete({"a": ["alien"], "b": ["alien", "hero"], "c": ["hero", "alien"]})
        (['alien', 'hero'], ['b', 'c'])
    """
    games = max(games_of.values(), key=len, default=[])
    return list(games), [name for name, own in games_of.items() if games and set(games) <= set(own)]


def reference(group: Group) -> System:
    """The system that the others are compared with: the paper's baseline if the study has it, else its first system."""
    for name in ("efficientzero", "efficientzero_l"):
        for system in group.study.systems:
            if system.published == name:
                return system
    return group.study.systems[0]


def same_runs(group: Group, system: str, other: str) -> bool:
    """Whether all runs of a system are the other's: it is that one, or the same at this scale."""
    runs = {target: runs for (name, target), runs in group.cells.items() if name == system}
    others = {target: group.cells.get((other, target), ()) for target in runs}
    return all([r.path.resolve() for r in runs[t]] == [r.path.resolve() for r in others[t]] for t in runs)


def improvement(group: Group, system: str, target: str) -> Measured | None:
    """Relative gain over the reference, ``(mean - reference) / reference``, intervals over the seeds of both.

    ``None`` where one of them has no runs, or the reference's mean is not positive. The paper's Figure 14.
    """
    ours = list(group.scores(system, target).values())
    base = list(group.scores(reference(group).name, target).values())
    if not ours or not base or np.mean(base) <= 0:
        return None
    return aggregate(aggregates.relative_improvement, {target: ours}, {target: base})


#: Games whose names are written in another way than their ids.
_TITLES = {
    "hero": "H.E.R.O.",
    "ms_pacman": "Ms. Pac-Man",
    "qbert": "Q*bert",
    "up_n_down": "Up 'n Down",
    "yars_revenge": "Yars' Revenge",
}


def game_title(target: str) -> str:
    """Name of a game for a reader.

    Example:
        >>> game_title("ms_pacman")
        'Ms. Pac-Man'
    """
    try:
        name = get_task(target).name
    except ValueError:
        name = target
    return _TITLES.get(name) or " ".join(word.capitalize() for word in name.split("_"))
