"""The pictures of a report: which there are, what they say, and the rows of numbers that each is drawn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from xtra_rl.evaluation.comparison import agent_bars
from xtra_rl.evaluation.figures import line_looks
from xtra_rl.report import curves
from xtra_rl.report.collect import Group
from xtra_rl.report.curves import Rows
from xtra_rl.report.figures import Looks, draw_aggregates, draw_gains, draw_panels
from xtra_rl.report.measures import game_title, reference
from xtra_rl.studies.plan import System


@dataclass(frozen=True)
class Picture:
    """One picture of the page.

    Attributes:
        name: of its files.
        title: above it.
        caption: what is drawn and what is left out, in sentences.
        alt: what it shows, for who cannot see it.
        numbers: rows of the CSV file.
        draw: writes it to a path.
    """

    name: str
    title: str
    caption: str
    alt: str
    numbers: Rows
    draw: Callable[[Path], Path]


#: Systems, by the paper's names, that have the same colour in all studies of a report.
_SHARED = ("efficientzero", "xtra")
_BASELINE_LOOKS: Looks = {
    "random play": {"color": "#666666", "linestyle": ":", "linewidth": 1.1},
    "best constant action": {"color": "#666666", "linestyle": "--", "linewidth": 1.1},
}
#: Pictures of the paper that each of ours redraws.
_PAPER = {
    "learning-curves": ("6a", "6b", "6c", "7", "11", "12", "13"),
    "aggregate-curve": ("1",),
    "gain-curve": ("6d",),
    "task-weights": ("5", "8", "9"),
    "improvement": ("14",),
    "offline": ("10",),
}
_BAND = " Bands and whiskers: 95 % bootstrap intervals over seeds; a single seed has none."


def _drawn(group: Group) -> str:
    """Which seeds the intervals of relative scores have in them."""
    over = reference(group).label
    return f" Relative to {over}: its seeds are drawn anew too; its own final mean is 1 by definition."


def pictures(group: Group) -> list[Picture]:
    """Every picture that the runs of a study have numbers for."""
    measured = (_curve_pictures, _bar_pictures, _weight_pictures) if group.cells else ()
    return [picture for kind in (*measured, _offline_pictures) for picture in kind(group)]


def _curve_pictures(group: Group) -> Iterator[Picture]:
    looks = system_looks(group)
    rows = curves.learning_rows(group)
    if any(row["env_step"] is not None for row in rows):
        last = [f"{row['system']} {row['mean']:,.1f} on {game_title(row['game'])}" for row in _last(rows)]
        caption = "Mean return of evaluations over seeds; level lines: what takes no env steps."
        rows += curves.baseline_rows(group)
        draw = partial(draw_panels, rows, looks=looks | _BASELINE_LOOKS)
        yield _picture(group, "learning-curves", "Learning curves", caption + _BAND, last, rows, draw)
    if rows := curves.aggregate_rows(group):
        last = [f"{row['system']} {row['mean']:.2f} {row['normalised']}" for row in _last(rows)]
        caption = f"Mean normalised score over {_games_by_way(rows)}. Systems without all of these games are left out."
        draw = partial(draw_panels, rows, looks=looks, panel="normalised", y_label="mean over games")
        title = "Learning curve over all games"
        yield _picture(group, "aggregate-curve", title, caption + _BAND + _drawn(group), last, rows, draw)
    if rows := curves.gain_curve_rows(group):
        over = reference(group).label
        last = [f"{row['system']} {100 * row['mean']:+.0f} %" for row in _last(rows)]
        caption = (
            f"Gain over {over} at the same env step, mean over the games of each system where {over} scores above zero"
            " at every step (named in the CSV file)."
        )
        draw = partial(
            draw_panels, rows, looks=looks, panel="over", y_label="gain, %", unit=100, titles=False, zero=True
        )
        yield _picture(group, "gain-curve", f"Gain over {over} while learning", caption, last, rows, draw)


def _weight_pictures(group: Group) -> Iterator[Picture]:
    """A picture for each system that weighs its cross tasks."""
    every = curves.weight_rows(group)
    for system in group.study.systems:
        rows = [row for row in every if row["system"] == system.label]
        if not rows:
            continue
        crosses = sorted({row["cross_task"] for row in rows})
        looks = dict(zip(crosses, line_looks(len(crosses))))
        last = [
            f"{game_title(row['cross_task'])} {row['mean']:.2f} for {game_title(row['game'])}"
            for row in _last(rows)
        ]
        caption = (
            "Weight of each cross task, mean over seeds; bands reach from the lowest to the highest seed."
        )
        draw = partial(
            draw_panels,
            rows,
            looks=looks,
            line="cross_task",
            y_label="task weight",
            y_limits=(-0.05, 1.05),
            held=True,
            named=game_title,
        )
        whole = system.published == "xtra"
        name = "task-weights" if whole else f"task-weights-{system.name.replace(' ', '-')}"
        yield _picture(group, name, f"Task weights: {system.label}", caption, last, rows, draw)


def _bar_pictures(group: Group) -> Iterator[Picture]:
    looks = system_looks(group)
    if rows := curves.improvement_rows(group):
        over = reference(group).label
        values = [f"{row['system']} on {game_title(row['game'])} {100 * row['mean']:+.0f} %" for row in rows]
        caption = f"Gain of {group.evaluations} over {over} on each game where {over} scores above zero."
        caption += f"{_BAND} The seeds of both are drawn anew."
        draw = partial(draw_gains, rows, looks=looks)
        title = f"Gain over {over} by game"
        yield _picture(group, "improvement", title, caption, values, rows, draw)
    every = curves.aggregate_bar_rows(group)
    for way in dict.fromkeys(row["normalised"] for row in every):
        rows = [row for row in every if row["normalised"] == way]
        values = [f"{row['statistic']} of {row['system']} {row['mean']:.2f}" for row in rows]
        caption = f"Over {_games(rows)}, {way}. Systems without all of these games are left out."
        name = "aggregates-human" if way == "human-normalised" else "aggregates-relative"
        caption += _BAND + (_drawn(group) if way != "human-normalised" else "")
        draw = partial(draw_aggregates, rows, looks=looks)
        yield _picture(group, name, f"Over all games, {way}", caption, values, rows, draw)


def _offline_pictures(group: Group) -> Iterator[Picture]:
    for place, run in enumerate(group.offline):
        if rows := curves.offline_rows(run):
            name = f"offline-{place + 1}" if place else "offline"
            agents = ", ".join(dict.fromkeys(row["agent"] for row in rows))
            caption = f"Episodes of {run.path}. Bars: means; lines: 95 % bootstrap intervals over episodes, not seeds."
            title = "Offline: students, teachers and their data"
            draw = partial(agent_bars, rows, scale=group.study.scale, seed=run.summary["seed"])
            yield _picture(group, name, title, caption, [f"agents {agents}"], rows, draw)


def _picture(
    group: Group, name: str, title: str, caption: str, says: Sequence[str], rows: Rows,
    draw: Callable[[Path], Path],
) -> Picture:  # fmt: skip
    redrawn = [each for each in _PAPER.get(name, ()) if f"figure{each}" in group.study.figures]
    paper = f" (Figure {', '.join(redrawn)} of the paper)" if redrawn else ""
    shown = "; ".join(says[:12]) + ("; and more in the CSV file" if len(says) > 12 else "")
    return Picture(name, title + paper, caption, f"{title}. At the end: {shown}.", rows, draw)


def system_looks(group: Group) -> Looks:
    """A system has the same colour in every picture, and the two that all studies share have it in every study."""
    systems = group.study.systems
    shared = [_kind(system, systems) for system in systems]
    others = iter(line_looks(len(_SHARED) + len(systems))[len(_SHARED) :])
    first = dict(zip(_SHARED, line_looks(len(_SHARED))))
    return {
        system.label: first.pop(kind) if kind and kind in first else next(others)
        for system, kind in zip(systems, shared, strict=True)
    }


def _kind(system: System, systems: Sequence[System]) -> str | None:
    """Which of the shared systems it is: EfficientZero-L where no smaller one is beside it."""
    alone = "efficientzero" not in [each.published for each in systems]
    name = "efficientzero" if system.published == "efficientzero_l" and alone else system.published
    return name if name in _SHARED else None


def _last(rows: Rows) -> Rows:
    """The last row of each line."""
    lines = {tuple(row.get(k) for k in ("normalised", "game", "system", "cross_task")): row for row in rows}
    return list(lines.values())


def _games_by_way(rows: Rows) -> str:
    ways = dict.fromkeys(row["normalised"] for row in rows)
    return " and ".join(f"{_games([row for row in rows if row['normalised'] == way])}, {way}" for way in ways)


def _games(rows: Rows) -> str:
    games = list(dict.fromkeys(game for row in rows for game in row["games"].split()))
    return f"{len(games)} {'game' if len(games) == 1 else 'games'} ({', '.join(map(game_title, games))})"
