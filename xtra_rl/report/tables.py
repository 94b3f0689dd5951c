"""The tables of a report: rows of cells for the page, and the same numbers as rows of a CSV file."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from xtra_rl.evaluation import aggregates
from xtra_rl.report.collect import Group
from xtra_rl.report.measures import (
    BASELINES,
    Measured,
    Normalisation,
    aggregate,
    at_start,
    baseline,
    game_title,
    human,
    normalisations,
    of_system,
    reference,
    same_runs,
    score_row,
    statistics_of,
    untrained_mode,
)
from xtra_rl.runs.record import Run
from xtra_rl.studies.plan import System

EMPTY = "not run"


class Cell(NamedTuple):
    """One cell: the number, what is known of its certainty, the paper's number, and the value to sort by.

    ``state`` is ``empty`` for what was not measured, ``partial`` for an average that lacks games or seeds.
    """

    text: str = EMPTY
    note: str = ""
    paper: str = ""
    value: float | None = None
    state: Literal["", "empty", "partial"] = ""


class Row(NamedTuple):
    """``kind`` is ``total`` for an average over games, which stays below the others when a table is sorted."""

    title: str
    cells: tuple[Cell, ...]
    kind: Literal["", "total"] = ""


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        name: of its CSV file.
        title: above it.
        caption: what a reader has to know, in sentences.
        corner: title of the first column.
        columns: titles of the others.
        rows: with a cell for each column.
        numbers: rows of the CSV file.
    """

    name: str
    title: str
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: list[dict[str, Any]] = field(default_factory=list)


def number(value: float | None, decimals: int = 1) -> str:
    """A score for a reader.

    Example:
        >>> number(14140.88), number(0.0), number(1.2345, 2)
        ('14,140.9', '0.0', '1.23')
    """
    return EMPTY if value is None or not math.isfinite(value) else f"{value:,.{decimals}f}"


def seeds_text(count: int) -> str:
    """For a sentence.

    Example:
        >>> seeds_text(1), seeds_text(5)
        ('1 seed', '5 seeds')
    """
    return f"{count} seed" if count == 1 else f"{count} seeds"


def cell(
    measured: Measured | None, paper: float | None = None, *, planned: int = 0, decimals: int = 1
) -> Cell:
    """A cell of mean, interval and number of seeds; ``planned`` says how many seeds there should be."""
    paper_text = "" if paper is None else number(paper, decimals)
    if measured is None:
        return Cell(paper=paper_text, state="empty")
    interval = interval_text(measured.low, measured.high, decimals)
    lacking = planned > measured.seeds
    seeds = f"{measured.seeds} of {planned} seeds" if lacking else seeds_text(measured.seeds)
    note = ", ".join(part for part in (interval, seeds) if part)
    return Cell(
        number(measured.mean, decimals), note, paper_text, measured.mean, "partial" if lacking else ""
    )


def interval_text(low: float, high: float, decimals: int = 1) -> str:
    """``[1.0, 2.0]``; empty where there is no interval."""
    known = math.isfinite(low) and math.isfinite(high)
    return f"[{number(low, decimals)}, {number(high, decimals)}]" if known else ""


def scores_table(group: Group) -> Table:
    """Every system on every game, with the baselines and the zero-shot play of pretrained systems beside."""
    study, columns = group.study, _score_columns(group)
    rows, numbers = [], []
    for target in study.targets:
        values = {title: of(target) for title, (of, _) in columns.items()}
        cells = tuple(cell(value, planned=columns[title][1]) for title, value in values.items())
        rows.append(Row(game_title(target), cells))
        numbers += [score_row(value, game=target, system=title) for title, value in values.items()]
    caption = (
        f"Mean return of {group.evaluations} ({group.mode} play), averaged over seeds; in brackets the 95 %"
        " bootstrap interval over seeds, which a single seed has not. Zero-shot is a pretrained system before its first"
        " env step. Random, constant (the best single action) and untrained are measured by the runs themselves; what"
        " is the same in all of them is one measurement."
    )
    return Table("scores", "Scores", caption, "game", tuple(columns), tuple(rows), numbers)


def _score_columns(group: Group) -> dict[str, tuple[Callable[[str], Measured | None], int]]:
    """What each column measures on a game, and how many seeds are planned; baselines that nobody has are left out."""
    study = group.study
    columns: dict[str, tuple[Callable[[str], Measured | None], int]] = {}
    for system in study.systems:
        columns[system.label] = (partial(of_system, group, system.name), len(study.seeds))
    beside: dict[str, Callable[[str], Measured | None]] = {
        f"{system.label}, zero-shot": partial(at_start, group, system.name) for system in study.systems
    }
    for name in BASELINES:
        mode = f", {untrained_mode(group)} play" if name == "untrained" else ""
        beside[name + mode] = partial(baseline, group, name)
    for title, of in beside.items():
        if any(of(target) for target in study.targets):
            columns[title] = (of, 0)
    return columns


def aggregates_table(group: Group) -> Table:
    """What the scores of all games say together about each system, and how likely it beats the reference."""
    columns, rows, numbers = _aggregate_columns(group), [], []
    first = reference(group)
    for system in group.study.systems:
        scores, same = group.by_task(system.name), same_runs(group, system.name, first.name)
        cells = []
        for title, (normalise, statistic) in columns.items():
            own = normalise(scores)
            games = len(normalise.possible(group.study.targets))
            value = normalise.aggregate(statistic, scores, own=same) if own else None
            cells.append(_over_games(value, len(own), games))
            numbers.append(score_row(value, system=system.label, statistic=title, games=" ".join(own)))
        shared = {task: values for task, values in group.by_task(first.name).items() if task in scores}
        wins = None
        if shared and system != first:
            ours = {task: scores[task] for task in shared}
            wins = aggregate(aggregates.probability_of_improvement, ours, shared)
        cells.append(
            _over_games(wins, len(shared), len(group.study.targets)) if system != first else Cell("—")
        )
        title = f"P(better than {first.label})"
        numbers.append(score_row(wins, system=system.label, statistic=title, games=" ".join(shared)))
        rows.append(Row(system.label, tuple(cells)))
    caption = (
        "Over the games of the study, with stratified bootstrap intervals over seeds (arXiv:2108.13264). Wherever"
        f" {first.label} is compared with, its seeds are drawn anew too, and the lower number of seeds is given;"
        " its own mean and median are 1 by definition. Random and human scores are published constants. A partial cell"
        f" lacks games that the system or {first.label} has not run on, and must not be compared with the"
        " others. Lower is better for the optimality gap. The last column"
        f" is the probability that a run beats one of {first.label} on a game drawn at random."
    )
    return Table(
        "aggregates", "Over all games", caption, "system",
        (*columns, f"P(better than {first.label})"), tuple(rows), numbers,
    )  # fmt: skip


def _aggregate_columns(group: Group) -> dict[str, tuple[Normalisation, aggregates.Statistic]]:
    return {
        f"{statistic}, {way}": (normalise, of)
        for way, normalise in normalisations(group).items()
        for statistic, of in statistics_of(way).items()
    }


def _over_games(value: Measured | None, count: int, games: int) -> Cell:
    made = cell(value, decimals=2)
    if value is None:
        return made
    note = f"{made.note}, {count} of {games} games" if count < games else made.note
    return made._replace(note=note, state="partial" if count < games else "")


def seeds_table(group: Group, system: System) -> Table:
    """Every seed of a system, as the paper's Table 3 has them for XTRA."""
    seeds = group.study.seeds
    columns = (*(f"seed {seed}" for seed in seeds), "mean", "median", "std", "human-normalised")
    rows, numbers = [], []
    for target in group.study.targets:
        scores = group.scores(system.name, target)
        values = list(scores.values())
        hns = human({target: values}).get(target) if values else None
        statistics = {
            "mean": float(np.mean(values)) if values else None,
            "median": float(np.median(values)) if values else None,
            "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "human-normalised": float(np.mean(hns)) if hns else None,
        }
        cells = [_plain(scores.get(seed)) for seed in seeds]
        cells += [
            _plain(value, 2 if name == "human-normalised" else 1, "—" if values else EMPTY)
            for name, value in statistics.items()
        ]
        rows.append(Row(game_title(target), tuple(cells)))
        numbers.append({"game": target, **{f"seed {seed}": scores.get(seed) for seed in seeds}, **statistics})
    caption = f"Mean return of {group.evaluations} of every run that counts; std divides by n - 1."
    title = f"Every seed: {system.label}"
    return Table(f"seeds-{system.name}", title, caption, "game", columns, tuple(rows), numbers)


def _plain(value: float | None, decimals: int = 1, empty: str = EMPTY) -> Cell:
    return Cell(empty, state="empty") if value is None else Cell(number(value, decimals), value=value)


def offline_table(run: Run, name: str) -> Table | None:
    """Students, teachers and their data, as a run of ``compare_offline`` has measured them; the paper's Figure 10."""
    measured_rows = run.summary.get("table")
    if not isinstance(measured_rows, list) or not measured_rows:
        return None
    tasks = list(dict.fromkeys(key for row in measured_rows for key in row if key not in ("agent", "mode")))
    rows = [
        Row(", ".join(str(row[key]) for key in ("agent", "mode") if row.get(key)),
            tuple(_plain(row.get(task)) for task in tasks))
        for row in measured_rows
    ]  # fmt: skip
    caption = f"Mean returns of {run.path}; the paper's Figure 10 compares these agents."
    titles = tuple(map(game_title, tasks))
    return Table(
        name, "Offline: students, teachers and their data", caption, "agent", titles, tuple(rows),
        [{key: row.get(key) for key in ("agent", "mode", *tasks)} for row in measured_rows],
    )  # fmt: skip
