"""Welch's t intervals of the study's comparisons: at three seeds the report's bootstrap intervals are too narrow.

    python results/laptop/t_intervals.py

Reads the ``games.csv`` of this folder and those below it and writes ``t_intervals.csv``. A run's score is the mean of
its last five evaluations up to an env step, without that before the first one; at 0 it is that one (sampled play only,
since untrained networks may score 0 when they play greedily). A ratio is that of geometric means over seeds; its
interval is Welch's on the logarithms, with his degrees of freedom (Biometrika 34, 1947), and over several games that of
the mean logarithm. As far as logarithms of scores are normal, it holds the truth in 95 % of cases.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from xtra_rl.files import write_csv

HERE, LAST = Path(__file__).parent, 5
STEPS, MODES = (0, 6_000, 12_000, 24_000), ("sampled", "greedy")
MAZES, SHOOTERS = ("alien", "ms_pacman"), ("assault", "demon_attack", "phoenix")
BESIDE = ("mask_below_root", "shipped_inputs", "fresh_seeds")
PARTS = ("no_cross_task", "no_pretraining", "no_task_weights", "representation_dynamics")

Curves = dict[str, dict[str, dict[int, float]]]
"""Mean returns by cell (``system/game``), seed and env step."""


def comparisons() -> Iterator[tuple[str, str, Sequence[str]]]:
    """The system above, the one below, the games."""
    for games in (*((game,) for game in (*MAZES, *SHOOTERS)), MAZES, SHOOTERS):
        yield "xtra", "efficientzero", games
    # Alien has six seeds of these two systems and three of the others.
    for place, games in (("fresh_seeds/", ("alien",)), ("all_seeds/", ("alien",)), ("all_seeds/", MAZES)):
        yield f"{place}xtra", f"{place}efficientzero", games
    for place, game in (("all_seeds/", ("alien",)), ("", ("phoenix",))):
        for part in PARTS:
            yield f"{place}xtra", f"{place}{part}", game
            yield f"{place}{part}", f"{place}efficientzero", game
    phoenix = ("phoenix",)
    yield "xtra", "xtra_mazes", phoenix
    for system in ("xtra_mazes", "representation"):
        yield system, "efficientzero", phoenix
    yield "mask_below_root/xtra", "mask_below_root/efficientzero", phoenix
    for system in ("xtra", "efficientzero"):
        yield "shipped_inputs/xtra_shipped", f"all_seeds/{system}", ("alien",)


def read_curves(mode: str) -> Curves:
    """All evaluations; cells of a folder below have its name before theirs, ``all_seeds`` has old and fresh ones."""
    games: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for place in ("", *BESIDE):
        path = HERE / place / "games.csv"
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["mode"] != mode:
                    continue
                cell, step = f"{row['system']}/{row['target']}", int(row["env_step"])
                names = [f"{place}/{cell}" if place else cell]
                if place in ("", "fresh_seeds"):
                    names.append(f"all_seeds/{cell}")
                for name in names:
                    games[name, row["seed"], step].append(float(row["return"]))
    curves: Curves = defaultdict(lambda: defaultdict(dict))
    for (cell, seed, step), returns in games.items():
        curves[cell][seed][step] = float(np.mean(returns))
    return curves


def logs(curves: Curves, system: str, game: str, until: int) -> np.ndarray:
    """Logarithm of each seed's score, of runs that came so far."""
    scores = []
    for curve in curves.get(f"{system}/{game}", {}).values():
        steps = [step for step in sorted(curve) if 0 < step <= until] if until else [0] * (0 in curve)
        if steps and max(steps) == until:
            scores.append(np.mean([curve[step] for step in steps[-LAST:]]))
    return np.log(np.maximum(scores, 1e-9))


def welch(above: Sequence[np.ndarray], below: Sequence[np.ndarray]) -> dict[str, float]:
    """Ratio of the first to the second, its 95 % interval and p; one array of logarithms for each game."""
    samples = [*above, *below]
    variances = np.array([each.var(ddof=1) / len(each) for each in samples]) / len(above) ** 2
    freedom = variances.sum() ** 2 / sum(
        v**2 / (len(each) - 1) for v, each in zip(variances, samples, strict=True)
    )
    middle = np.mean([a.mean() - b.mean() for a, b in zip(above, below, strict=True)])
    error = np.sqrt(variances.sum())
    half = stats.t.ppf(0.975, freedom) * error
    low, high = np.exp([middle - half, middle + half])
    p = 2 * stats.t.sf(abs(middle) / error, freedom)
    return {"ratio": np.exp(middle), "low": low, "high": high, "p": p, "degrees of freedom": freedom}


def main() -> None:
    """Print and write all comparisons that there are runs for."""
    rows = []
    for mode in MODES:
        curves = read_curves(mode)
        for above, below, games in comparisons():
            for until in STEPS[mode == "greedy" :]:
                both = [[logs(curves, system, game, until) for game in games] for system in (above, below)]
                if min(len(each) for side in both for each in side) < 3:
                    continue
                found = {name: round(float(value), 4) for name, value in welch(*both).items()}
                rows.append(
                    {
                        "above": above,
                        "below": below,
                        "games": " ".join(games),
                        "mode": mode,
                        "env_step": until,
                    }
                    | found
                )
                if until == STEPS[-1]:
                    print(
                        f"{mode:8}{' '.join(games):32}{above:28}{below:30}{found['ratio']:5.2f}"
                        f" [{found['low']:.2f}, {found['high']:.2f}]  p {found['p']:.3f}"
                    )
    write_csv(HERE / "t_intervals.csv", rows)


if __name__ == "__main__":
    main()
