"""What ``recipes/diagnose.py`` found in some models, for the report: a table of all, and their pictures."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from xtra_rl.files import read_json
from xtra_rl.report.measures import game_title
from xtra_rl.report.pictures import Picture
from xtra_rl.report.tables import EMPTY, Cell, Row, Table, interval_text, number
from xtra_rl.runs.files import DIAGNOSIS

__all__ = ["DiagnosedModel", "find_diagnoses"]

PICTURE = "figures/diagnosis.png"

#: Columns of the table: the number, its interval if it has one, decimals.
_COLUMNS = {
    "true action beats random": ("action/true_beats_random", "action/interval", 3),
    "where it differs": ("action/where_it_differs", "action/where_it_differs_interval", 3),
    "reward explained": ("reward/explained", None, 2),
    "value explained": ("value/explained", None, 2),
    "entropy of the prior": ("policy/prior_entropy_share", None, 2),
    "entropy of the search": ("policy/search_entropy_share", None, 2),
    "search gains": ("search/improvement", "search/improvement_interval", 3),
}


@dataclass(frozen=True)
class DiagnosedModel:
    """One finished run of the recipe: its folder, and the numbers that a person reads first.

    Example:
        >>> numbers = {"target": "ms_pacman", "checkpoint": "runs/xtra_finetune/ms_pacman-laptop-s0/model"}
        >>> DiagnosedModel(Path("runs/diagnose/ms_pacman"), numbers).title
        'Ms. Pac-Man: xtra_finetune/ms_pacman-laptop-s0/model'
    """

    path: Path
    numbers: Mapping[str, Any]

    @property
    def model(self) -> str:
        """The last parts of the model's path, which name system, run and checkpoint."""
        return "/".join(Path(self.numbers["checkpoint"]).parts[-3:])

    @property
    def title(self) -> str:
        """For the rows of a table."""
        return f"{game_title(self.numbers['target'])}: {self.model}"


def find_diagnoses(paths: Sequence[str | os.PathLike[str]]) -> list[DiagnosedModel]:
    """All diagnoses in and below some folders, by game and model.

    Raises:
        ValueError: if one cannot be read.

    Example:
        >>> import tempfile
        >>> from xtra_rl.files import write_json
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_json(folder / "diagnosis.json", {"target": "pong", "checkpoint": "model"})
        >>> [model.title for model in find_diagnoses([folder])]
        ['Pong: model']
    """
    found = []
    for file in {file for path in paths for file in Path(path).rglob(DIAGNOSIS)}:
        numbers = read_json(file)
        if not isinstance(numbers, dict) or not {"target", "checkpoint"} <= set(numbers):
            raise ValueError(f"{str(file)!r} names no target and checkpoint; diagnose the model again")
        found.append(DiagnosedModel(file.parent, numbers))
    return sorted(found, key=lambda each: (each.title, str(each.path)))


def diagnosis_table(models: Sequence[DiagnosedModel]) -> Table | None:
    """A row for each model; None if there is none."""
    if not models:
        return None
    caption = (
        "On games that the model's own agent played. The next latent that the true action leads to is nearer to what"
        " came than that of another action in so many positions (0.5: the action does not matter), and in those alone"
        " where the emulator shows another frame after the other action; share of the"
        " variance of rewards (one step ahead) and values explained (1 is perfect, 0 a constant, below 0 worse);"
        " entropies as shares of a uniform policy's; by how much the search's policy has the higher value than the"
        " prior, in units of the value. In brackets 95 % intervals over games."
    )
    rows = [Row(each.title, (*_cells(each), _count(each))) for each in models]
    numbers = [
        {"game": each.numbers["target"], "model": each.model, **_flat(each.numbers)} for each in models
    ]
    # Diagnoses of earlier versions lack some numbers.
    known = {name: None for each in numbers for name in each}
    numbers = [known | each for each in numbers]
    columns = (*_COLUMNS, "positions")
    return Table(
        "diagnosis", "Is the model a model?", caption, "game and model", columns, tuple(rows), numbers
    )


def _cells(model: DiagnosedModel) -> list[Cell]:
    cells = []
    for key, interval, decimals in _COLUMNS.values():
        value, ends = model.numbers.get(key), model.numbers.get(interval or "")
        if value is None:
            cells.append(Cell(EMPTY, state="empty"))
        else:
            cells.append(Cell(number(value, decimals), _interval(ends, decimals), value=value))
    return cells


def _interval(ends: Sequence[float | None] | None, decimals: int) -> str:
    low, high = ends or (None, None)
    return "" if low is None or high is None else interval_text(low, high, decimals)


def _count(model: DiagnosedModel) -> Cell:
    positions, games = model.numbers.get("positions"), model.numbers.get("games")
    return Cell(f"{positions:,}", f"{games} games", value=positions) if positions else Cell(state="empty")


def _flat(numbers: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in numbers.items():
        if isinstance(value, list):
            flat |= {f"{name}_low": value[0], f"{name}_high": value[1]}
        elif name not in ("target", "checkpoint"):
            flat[name] = value
    return flat


def diagnosis_pictures(models: Sequence[DiagnosedModel]) -> list[Picture]:
    """What the recipe drew of each model, as it is; models whose picture is gone have none."""
    return [
        Picture(
            f"diagnosis-{place + 1}",
            each.title,
            "Drawn by recipes/diagnose.py; bands and whiskers are 95 % intervals over games.",
            f"Effect of the action, rewards, values and policies. {each.title}.",
            [_flat(each.numbers)],
            partial(_copy, each.path / PICTURE),
        )
        for place, each in enumerate(models)
        if (each.path / PICTURE).is_file()
    ]


def _copy(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(source, target))
