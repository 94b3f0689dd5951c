"""A study as data: the systems it compares, on which games, with which seeds, and where each run lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xtra_rl.files import read_json, write_json

STUDY_FILE = "study.json"


@dataclass(frozen=True)
class System:
    """One column of a table.

    Attributes:
        name: identifier, ``no_cross_task``.
        label: what a reader sees, ``XTRA, no cross-task``.
        recipe: file of ``recipes/`` without its ending.
        overrides: what makes a run one of this system, on the recipe's command line.
        published: name of the paper's column that it redraws; ``None`` for a system that the paper has not.
        settings: of all its runs at the study's scale, dotted, but for game, seed, places and machine; empty in a study
            that an earlier version planned.
    """

    name: str
    label: str
    recipe: str
    overrides: tuple[str, ...] = ()
    published: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class PlannedRun:
    """One cell's share of a study.

    Attributes:
        system: name of its :class:`System`.
        target: canonical name of the game.
        seed: of the run.
        overrides: the whole command line behind the recipe's name, in order, but for where the run lies and what it
            runs on (``run_dir``, ``artifacts``, ``device``, ``threads``).
        run_dir: relative to the study's folder. Two systems that are the same at a scale share it, and runs that
            another experiment has too lie in that one's folder, beside this one.
    """

    system: str
    target: str
    seed: int
    overrides: tuple[str, ...]
    run_dir: str


@dataclass(frozen=True)
class Study:
    """An experiment at one scale.

    Attributes:
        experiment: name of its file in ``configs/experiment``.
        title: one line.
        scale: of every run.
        tables: tables of the paper that the report redraws from it, ``table1``.
        figures: figures of the paper, ``figure6a``.
        systems: in the order of the columns; the first is what the others are compared with.
        targets: games, in the order of the rows.
        seeds: of every cell.
        runs: every run that belongs to it, done or not.
    """

    experiment: str
    title: str
    scale: str
    tables: tuple[str, ...]
    figures: tuple[str, ...]
    systems: tuple[System, ...]
    targets: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: tuple[PlannedRun, ...]

    def system(self, name: str) -> System:
        """The system of that name.

        Raises:
            ValueError: if there is none.
        """
        for system in self.systems:
            if system.name == name:
                return system
        known = ", ".join(system.name for system in self.systems)
        raise ValueError(f"study {self.experiment!r} has no system {name!r}; it has {known}")


def write_study(folder: str | os.PathLike[str], study: Study) -> Path:
    """Write ``study.json`` into the study's folder, which is made; returns its path."""
    path = Path(folder) / STUDY_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(study))
    return path


def read_study(folder: str | os.PathLike[str]) -> Study:
    """Read the study of a folder.

    Raises:
        ValueError: if there is no study, or its file is not one of this library.
    """
    path = Path(folder) / STUDY_FILE
    if not path.is_file():
        raise ValueError(
            f"{str(folder)!r} holds no {STUDY_FILE}; expected a folder that recipes/study.py wrote"
        )
    try:
        return _study_of(read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a study of this library ({error}); plan it anew") from error


def _study_of(content: Mapping[str, Any]) -> Study:
    def frozen(row: Mapping[str, Any]) -> dict[str, Any]:
        return {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}

    parts = frozen(content)
    parts["systems"] = tuple(System(**frozen(row)) for row in content["systems"])
    parts["runs"] = tuple(PlannedRun(**frozen(row)) for row in content["runs"])
    return Study(**parts)
