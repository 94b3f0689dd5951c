"""Tables of the paper, redrawn: our number in each cell that the runs can fill, the printed one beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from xtra_rl.envs.scores import TASK_SETS
from xtra_rl.evaluation import aggregates
from xtra_rl.evaluation.published import (
    TABLES,
    published_aggregates,
    published_scores,
    published_seed_statistics,
    published_seeds,
    published_source,
)
from xtra_rl.report.collect import Group
from xtra_rl.report.measures import (
    Measured,
    Normalisation,
    at_start,
    game_title,
    of_system,
    same_runs,
    score_row,
    start_scores,
)
from xtra_rl.report.tables import Cell, Row, Table, cell, number, seeds_table
from xtra_rl.studies.plan import System

#: Headings of columns that only the paper has.
_TITLES = {
    "bc_finetuned": "BC, finetuned",
    "bc_zero_shot": "BC, zero-shot",
    "efficientzero": "EfficientZero",
    "efficientzero_l": "EfficientZero-L",
    "xtra": "XTRA",
    "xtra_zero_shot": "XTRA, zero-shot",
    "xtra_4_tasks": "XTRA, 4 tasks",
    "xtra_2_tasks": "XTRA, 2 tasks",
    "no_cross_task": "no cross-task",
    "no_pretraining": "no pretraining",
    "no_task_weights": "no task weights",
    "simple": "SimPLe",
    "otrainbow": "OTRainbow",
    "drq": "DrQ",
    "spr": "SPR",
    "muzero": "MuZero",
    "curl": "CURL",
    "curl_pretrained": "CURL, pretrained",
}
#: Zero-shot play is measured by the runs that finetune from the same model.
_ZERO_SHOT = {"xtra_zero_shot": "xtra", "bc_zero_shot": "bc_finetuned"}


def paper_tables(group: Group) -> list[Table]:
    """The tables of the study that the paper has scores for, with the study's games.

    A table of the paper that no game or no system of the study is in is left out.
    """
    tables = []
    for name in group.study.tables:
        if name not in TABLES:
            continue
        published = published_scores(name)
        targets = [
            target for target in group.study.targets if any(target in scores for scores in published.values())
        ]
        ours = any(_system_of(group, column) for column in published)
        if targets and ours:
            tables.append(
                _with_paper_seeds(group, name) if name == "table3" else _paper_table(group, name, targets)
            )
    return tables


def _system_of(group: Group, column: str) -> System | None:
    """The study's system that redraws a column, or whose start does."""
    for wanted in (column, _ZERO_SHOT.get(column)):
        for system in group.study.systems:
            if wanted and system.published == wanted:
                return system
    return None


def _ours(group: Group, column: str, target: str) -> Measured | None:
    system = _system_of(group, column)
    if system is None:
        return None
    of = of_system if system.published == column else at_start
    return of(group, system.name, target)


def _paper_table(group: Group, name: str, targets: list[str]) -> Table:
    """Games by systems; below them mean and median of the normalised scores, by group of games as printed."""
    published = published_scores(name)
    columns = sorted(published, key=lambda column: _system_of(group, column) is None)
    rows, numbers = [], []
    for target in targets:
        cells = []
        for column in columns:
            value, paper = _ours(group, column, target), published[column].get(target)
            system = _system_of(group, column)
            planned = len(group.study.seeds) if system and system.published == column else 0
            made = cell(value, paper, planned=planned)
            cells.append(made if system else made._replace(text="—"))
            numbers.append(score_row(value, game=target, system=column, paper=paper))
        rows.append(Row(game_title(target), tuple(cells)))
    totals, total_numbers = _totals(group, name, columns, targets)
    table = TABLES[name]
    unit = "human-normalised scores"
    if table.normalization == "efficientzero":
        unit = (
            "scores in units of EfficientZero's mean (ours in units of our EfficientZero's, whose seeds are drawn anew"
            " too; it is 1 of itself by definition)"
        )
    caption = (
        f"Ours: mean return ({group.mode} play), 95 % interval over seeds, number of seeds. Below it, in italics, what"
        f" the paper prints (XTRA, arXiv:2210.10763). The last rows are means and medians of {unit}; a partial one"
        f" lacks games. {_sources(name, columns)}"
    )
    return Table(
        name, f"{_label(name)}: {table.title}", caption, "game",
        tuple(map(_title, columns)), (*rows, *totals), numbers + total_numbers,
    )  # fmt: skip


def _sources(name: str, columns: list[str]) -> str:
    """Where each printed column comes from, for the end of a caption."""
    of: dict[str, list[str]] = {}
    for column in columns:
        of.setdefault(published_source(name, column), []).append(_title(column))
    return "Sources: " + "; ".join(f"{', '.join(titles)}: {source}" for source, titles in of.items()) + "."


def _label(name: str) -> str:
    return f"Table {name[5:]} of the paper" if name.startswith("table") else "Atari 100k"


def _title(column: str) -> str:
    return _TITLES.get(column, column.replace("_", " "))


def _totals(
    group: Group, name: str, columns: list[str], targets: list[str]
) -> tuple[list[Row], list[dict[str, Any]]]:
    """Rows of averages over the printed groups of games that the study touches."""
    printed, published = published_aggregates(name), published_scores(name)
    normalise = _normalisation(group, name, targets)
    everything = {task for scores in published.values() for task in scores}
    rows, numbers = [], []
    groups = dict.fromkeys(games for values in printed.values() for games in values)
    for games in groups:
        members = everything if games == "overall" else everything & set(TASK_SETS[games])
        if not members & set(targets):
            continue
        for statistic, of in (("mean", aggregates.mean), ("median", aggregates.median)):
            cells = []
            for column in columns:
                raw = _scores(group, column, [task for task in targets if task in members])
                scores, same = normalise(raw), _is_unit(group, column)
                value = normalise.aggregate(of, raw, own=same) if scores else None
                paper = (
                    getattr(printed[column][games], statistic) if games in printed.get(column, {}) else None
                )
                whole = len(normalise.possible(members))
                cells.append(_total_cell(group, column, value, paper, len(scores), whole))
                title = f"{statistic}, {games}"
                numbers.append(score_row(value, game=title, system=column, paper=paper))
            rows.append(Row(title, tuple(cells), "total"))
    return rows, numbers


def _total_cell(
    group: Group, column: str, value: Measured | None, paper: float | None, count: int, whole: int
) -> Cell:
    made = cell(value, paper, decimals=2)
    if value is not None and count < whole:
        made = made._replace(note=f"{made.note}, {count} of {whole} games", state="partial")
    return made if _system_of(group, column) else made._replace(text="—")


def _scores(group: Group, column: str, targets: list[str]) -> dict[str, list[float]]:
    """Scores of every seed by game."""
    system = _system_of(group, column)
    if system is None:
        return {}
    if system.published == column:
        return {task: scores for task, scores in group.by_task(system.name).items() if task in targets}
    starts = {task: start_scores(group, system.name, task) for task in targets}
    return {task: scores for task, scores in starts.items() if scores}


def _normalisation(group: Group, name: str, targets: list[str]) -> Normalisation:
    """Human-normalised, or in units of this study's own EfficientZero."""
    if TABLES[name].normalization == "human":
        return Normalisation()
    return Normalisation(_scores(group, "efficientzero", targets))


def _is_unit(group: Group, column: str) -> bool:
    """Whether a column's scores are those of EfficientZero's runs, which stand at 1."""
    system, unit = _system_of(group, column), _system_of(group, "efficientzero")
    if system is None or unit is None or system.published != column:
        return False
    return same_runs(group, system.name, unit.name)


def _with_paper_seeds(group: Group, name: str) -> Table:
    """Table 3: every seed of XTRA, ours over the paper's."""
    system = _system_of(group, "xtra")
    assert system is not None  # noqa: S101  # Table 3 has no other column.
    table = seeds_table(group, system)
    seeds, printed = published_seeds(name)["xtra"], published_seed_statistics(name)["xtra"]
    rows, numbers = [], []
    for target, row, values in zip(group.study.targets, table.rows, table.numbers, strict=True):
        if target not in seeds:
            continue
        paper = _paper_row(target, seeds, printed)
        rows.append(row._replace(cells=_beside(row.cells, table.columns, paper)))
        numbers.append(values | {f"{column}, paper": paper.get(column) for column in table.columns})
    normalised = [row["human-normalised"] for row in numbers if row["human-normalised"] is not None]
    for statistic, of in (("mean", np.mean), ("median", np.median)):
        own = float(of(normalised)) if normalised else None
        paper_value = getattr(published_aggregates(name)["xtra"]["overall"], statistic)
        last = cell(None if own is None else Measured(own, math.nan, math.nan, 1), paper_value, decimals=2)
        whole = len(normalised) == len(seeds)
        last = last._replace(
            note="" if whole else f"{len(normalised)} of {len(seeds)} games",
            state=last.state if whole or own is None else "partial",
        )
        empty = [Cell("")] * (len(table.columns) - 1)
        rows.append(Row(f"{statistic}, overall", (*empty, last), "total"))
        numbers.append(
            {"game": f"{statistic}, overall", "human-normalised": own, "human-normalised, paper": paper_value}
        )
    numbers = [dict.fromkeys(numbers[0]) | each for each in numbers]
    caption = (
        f"{table.caption} In italics what the paper prints; its seeds and ours have nothing in common. The last rows"
        f" are over games. {_sources(name, ['xtra'])}"
    )
    title = f"{_label(name)}: {TABLES[name].title}"
    return Table(name, title, caption, "game", table.columns, tuple(rows), numbers)


def _paper_row(target: str, seeds: Mapping[str, Any], printed: Mapping[str, Any]) -> dict[str, float | None]:
    statistics = printed[target]
    return {f"seed {i}": value for i, value in enumerate(seeds[target])} | {
        "mean": statistics.mean,
        "median": statistics.median,
        "std": statistics.std,
        "human-normalised": statistics.human_normalized,
    }


def _beside(
    cells: tuple[Cell, ...], columns: tuple[str, ...], paper: Mapping[str, float | None]
) -> tuple[Cell, ...]:
    made = []
    for column, own in zip(columns, cells, strict=True):
        value = paper.get(column)
        decimals = 2 if column == "human-normalised" else 1
        made.append(own if value is None else own._replace(paper=number(value, decimals)))
    return tuple(made)
