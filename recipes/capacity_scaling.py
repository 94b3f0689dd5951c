"""How fast one run is with more ranks, actors and tasks: rows and curves of the capacity plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from xtra_rl.studies.capacity import Case, Line, amdahl
from xtra_rl.studies.scaling import Plant, bound, simulate

_RANKS = (1, 2, 4, 8, 16, 32, 64)
_ACTORS = (1, 2, 4, 8, 16)
_ENV_STEPS = (1, 16, 64)  # for one update
_TASKS = (0, 1, 2, 4, 8)
_JITTER = 0.2  # of rounds, and of every rank's part of an update, in the simulation
_AHEAD = 4  # rounds of all actors, and updates, that may wait where acting and learning overlap


def largest(cases: Mapping[str, Case], fresh: float) -> Case:
    """XTRA's own network with its cross tasks, of whose observations a share is ``fresh``."""
    case = max(cases.values(), key=lambda case: (case.tasks, case.parameters))
    encode = case.parts["encode"]
    known = Line(fresh * encode.fixed, fresh * encode.per_sample)
    return replace(case, parts={**case.parts, "encode": known})


def plant_of(case: Case, num_envs: int, bandwidth: float, ranks: int) -> Plant:
    """A run of one actor on so many GPUs: what does not get shorter by them, and what they share."""
    whole = case.update(ranks=ranks, bandwidth=bandwidth)
    shared = case.batch * sum(line.per_sample for line in case.parts.values())
    shared = min(shared, ranks * whole)  # one rank overlaps some of it
    return Plant(1, ranks, case.act() * num_envs, num_envs, whole - shared / ranks, shared)


def acting_ahead(plant: Plant, actors: int) -> Plant:
    """The same with so many actors that do not wait for the learner."""
    return replace(plant, actors=actors, ahead=_AHEAD * (actors * plant.round_steps + 1 / plant.replay_ratio))


def rank_rows(case: Case, bandwidth: float) -> list[dict[str, Any]]:
    """Speed of the loop in which acting and learning take turns, by the number of ranks."""
    serial = case.serial_fraction()
    alone = case.act() + case.update()
    rows = []
    for ranks in _RANKS:
        update = case.update(ranks=ranks, bandwidth=bandwidth)
        speedup = alone / (case.act() + update)
        rows.append(
            {
                "GPUs": ranks,
                "ms an update": 1e3 * update,
                "env steps/s": 1 / (case.act() + update),
                "speed-up": speedup,
                "efficiency, %": 100 * speedup / ranks,
                f"Amdahl, serial {100 * serial:.0f} %": amdahl(serial, ranks),
            }
        )
    return rows


def curves(case: Case, num_envs: int, bandwidth: float) -> list[dict[str, Any]]:
    """Lines of the formulas and points of the simulation for three panels."""
    found: list[dict[str, Any]] = []

    def add(panel: str, x_label: str, label: str, plants: Mapping[int, Plant]) -> None:
        common = {"panel": panel, "x_label": x_label, "y_label": "env steps a second", "label": label}
        x = list(plants)
        found.append(common | {"x": x, "y": [bound(plant) for plant in plants.values()]})
        simulated = [simulate(replace(plant, jitter=_JITTER)).env_steps_per_s for plant in plants.values()]
        found.append(common | {"x": x, "y": simulated, "marker": True})

    turns = {ranks: plant_of(case, num_envs, bandwidth, ranks) for ranks in _RANKS}
    panel = "More ranks of the learner, an update an env step"
    add(panel, "ranks, a GPU each", "acting and learning in turns", turns)
    ahead = {ranks: acting_ahead(plant, 1) for ranks, plant in turns.items()}
    add(panel, "ranks, a GPU each", "an actor that does not wait", ahead)
    for env_steps in _ENV_STEPS:
        eight = replace(turns[8], replay_ratio=1 / env_steps)
        plants = {actors: acting_ahead(eight, actors) for actors in _ACTORS}
        add(
            "More actors, 8 ranks",
            "actors that do not wait, a GPU each",
            f"an update for {env_steps} env step{'s' if env_steps > 1 else ''}",
            plants,
        )
    return found + task_curves(case)


def task_curves(case: Case) -> list[dict[str, Any]]:
    """Hours of 100,000 env steps and updates by the number of cross tasks, without evaluations."""
    crossed = case.tasks - 1
    common = {
        "panel": "More cross tasks, one GPU",
        "x_label": "cross tasks",
        "y_label": "hours for 100,000 env steps",
    }
    alone = case.act() + case.overlap * sum(line.at(case.batch / 2) for line in case.parts.values())
    half = case.overlap * sum(line.per_sample for line in case.parts.values()) * case.batch / 2
    weights = 0.1 * case.measuring / crossed  # 500 updates of 5,000 take a gradient of each task

    def hours(seconds: list[float]) -> list[float]:
        return [100_000 * each / 3600 for each in seconds]

    fixed = [alone + (half + weights * count if count else 0.0) for count in _TASKS]
    grown = [alone + half * count / crossed + weights * count for count in _TASKS]
    each = case.batch // 2 // crossed
    return [
        common | {"label": "they share a batch, as published", "x": list(_TASKS), "y": hours(fixed)},
        common | {"label": f"each brings {each} windows", "x": list(_TASKS), "y": hours(grown)},
    ]
