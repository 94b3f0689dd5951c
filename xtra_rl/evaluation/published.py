"""Every number that the XTRA paper prints in its tables 1 to 7, and EfficientZero's and MuZero's 26 games.

The numbers are in two files beside this one, with the source of each: ``published.csv`` holds a row for each cell
(empty ``seed``: the paper's mean), ``published_aggregates.csv`` the aggregates as they are printed, which are never
recomputed here. Random and human scores are those of the task table (:func:`~xtra_rl.envs.get_task`; Badia et al. 2020,
arXiv:2003.13350).

SimPLe, OTRainbow, DrQ, SPR, MuZero and CURL in tables 2 and 4 were not run by the paper's authors; the source names
the work that they quote. Games are called as in the task table (``ms_pacman``), systems as in :func:`systems`.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

__all__ = [
    "TABLES",
    "PublishedAggregate",
    "SeedStatistics",
    "published_aggregates",
    "published_scores",
    "published_seed_statistics",
    "published_seeds",
    "published_source",
    "systems",
]

GROUPS = ("shooter", "maze", "overall")


class PublishedTable(NamedTuple):
    """What a table shows; ``normalization`` is what its aggregates are computed from."""

    title: str
    normalization: Literal["efficientzero", "human"]


TABLES: dict[str, PublishedTable] = {
    "table1": PublishedTable("Similar games, ablations and baselines, 100k env steps", "efficientzero"),
    "table2": PublishedTable("Diverse games, 20k more updates after 100k env steps", "human"),
    "table3": PublishedTable("XTRA on similar games, every seed", "human"),
    "table4": PublishedTable("CURL with and without pretraining, diverse games", "human"),
    "table5": PublishedTable("CURL with and without pretraining, similar games", "efficientzero"),
    "table6": PublishedTable("Ablations on diverse games", "human"),
    "table7": PublishedTable("Number of pretraining tasks, diverse games", "human"),
    "atari100k": PublishedTable("EfficientZero and MuZero on the 26 games of Atari 100k", "human"),
}
"""What each table shows, by the name that the functions here take, and what its aggregates are computed from.

Those of tables 1 and 5 divide by EfficientZero's scores in table 1.
"""


class PublishedAggregate(NamedTuple):
    """As printed; ``note`` says where the cells of the same table give something else."""

    mean: float
    median: float
    note: str = ""


class SeedStatistics(NamedTuple):
    """As printed beside the seeds of one game; ``std`` divides by n - 1.

    ``human_normalized`` is ``None`` for Carnival, which has no published human score.
    """

    mean: float
    median: float
    std: float
    human_normalized: float | None


def systems(table: str) -> tuple[str, ...]:
    """Names of a table's systems, in the order of its columns.

    ``no_cross_task``, ``no_pretraining`` and ``no_task_weights`` are XTRA without that part, ``efficientzero_l`` is
    EfficientZero with XTRA's larger network, ``xtra_4_tasks`` is pretrained on that many games (``xtra``: on eight).

    Raises:
        ValueError: if the table is unknown; the message lists the known ones.

    Example:
        >>> systems("table6")
        ('xtra', 'no_cross_task', 'no_pretraining', 'no_task_weights')
    """
    return tuple(dict.fromkeys(row["system"] for row in _rows("published", table)))


def published_scores(table: str) -> dict[str, dict[str, float]]:
    """Mean raw score by system and task, in the order of the table; for ``table3`` the mean of its seeds.

    Raises:
        ValueError: as :func:`systems`.

    Example:
        >>> published_scores("table1")["xtra"]["ms_pacman"]
        1459.7
    """
    return {
        system: {task: sum(runs) / len(runs) for task, runs in tasks.items()}
        for system, tasks in _cells(_rows("published", table)).items()
    }


def published_seeds(table: str) -> dict[str, dict[str, list[float]]]:
    """Raw score of every seed, by system and task.

    Raises:
        ValueError: as :func:`systems`, or if the table prints means only.

    Example:
        >>> published_seeds("table3")["xtra"]["amidar"]
        [93.0, 104.34, 76.47, 97.38, 79.59]
    """
    return _cells(_rows("published", _seeded(table)))


def published_aggregates(table: str) -> dict[str, dict[str, PublishedAggregate]]:
    """Printed mean and median over games, by system and group of games (``shooter``, ``maze``, ``overall``).

    A system without printed aggregates is left out (MuZero in ``atari100k``).

    Raises:
        ValueError: as :func:`systems`.

    Example:
        >>> published_aggregates("table1")["xtra"]["overall"]
        PublishedAggregate(mean=1.23, median=1.25, note='')
    """
    printed = {
        system: {group: values for group, values in groups.items() if group in GROUPS}
        for system, groups in _printed(table).items()
    }
    notes = {
        (row["system"], row["group"]): row["note"]
        for row in _rows("published_aggregates", table)
        if row["note"]
    }
    return {
        system: {
            group: PublishedAggregate(values["mean"], values["median"], notes.get((system, group), ""))
            for group, values in groups.items()
        }
        for system, groups in printed.items()
    }


def published_seed_statistics(table: str) -> dict[str, dict[str, SeedStatistics]]:
    """Printed statistics over the seeds of each game, by system and task.

    Raises:
        ValueError: as :func:`published_seeds`.

    Example:
        >>> published_seed_statistics("table3")["xtra"]["assault"]
        SeedStatistics(mean=1294.55, median=1236.19, std=105.06, human_normalized=2.06)
    """
    return {
        system: {
            task: SeedStatistics(
                values["mean"], values["median"], values["std"], values.get("human_normalized")
            )
            for task, values in tasks.items()
            if task not in GROUPS
        }
        for system, tasks in _printed(_seeded(table)).items()
    }


def published_source(table: str, system: str) -> str:
    """Where the scores of a system come from.

    Raises:
        ValueError: as :func:`systems`, or if the table has no such system.

    Example:
        >>> published_source("table2", "spr")
        'arXiv:2007.05929; printed in arXiv:2210.10763 Table 2'
    """
    sources = {row["system"]: row["source"] for row in _rows("published", table)}
    if system not in sources:
        raise ValueError(f"system {system!r} is not in {table}; it has {', '.join(sources)}")
    return sources[system]


@cache
def _read(name: str) -> tuple[dict[str, str], ...]:
    text = (files("xtra_rl.evaluation") / f"{name}.csv").read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))


def _rows(name: str, table: str) -> list[dict[str, str]]:
    if table not in TABLES:
        raise ValueError(f"table {table!r} is unknown; known tables: {', '.join(TABLES)}")
    return [row for row in _read(name) if row["table"] == table]


def _seeded(table: str) -> str:
    """The table's name, if it prints seeds."""
    if not any(row["seed"] for row in _rows("published", table)):
        seeded = sorted({row["table"] for row in _read("published") if row["seed"]})
        raise ValueError(f"table {table!r} prints no seeds, only means; seeds are in {', '.join(seeded)}")
    return table


def _cells(rows: list[dict[str, str]]) -> dict[str, dict[str, list[float]]]:
    cells: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        cells.setdefault(row["system"], {}).setdefault(row["game"], []).append(float(row["score"]))
    return cells


def _printed(table: str) -> dict[str, dict[str, dict[str, float]]]:
    """Values by system, group or game, and statistic."""
    printed: dict[str, dict[str, dict[str, float]]] = {}
    for row in _rows("published_aggregates", table):
        values = printed.setdefault(row["system"], {}).setdefault(row["group"], {})
        values[row["statistic"]] = float(row["value"])
    return printed
