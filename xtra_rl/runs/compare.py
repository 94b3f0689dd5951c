"""``compare``: what differs between runs, and what came of it.

Example:
    >>> import tempfile
    >>> from xtra_rl.training.logging import RunLogger
    >>> from xtra_rl.training.run import RunDirectory
    >>> folder = tempfile.mkdtemp()
    >>> for seed in (0, 1):
    ...     run, config = RunDirectory(f"{folder}/seed{seed}"), {"target": "pong", "scale": "quick", "seed": seed}
    ...     run.write_config(config)
    ...     _ = run.write_manifest(recipe="xtra_finetune", config=config, device="cpu")
    ...     with RunLogger(run.path) as logger:
    ...         logger.log({"eval/pong/return": 3.0 + seed}, env_step=100, train_step=100)
    >>> from xtra_rl.runs.record import find_runs, read_run
    >>> runs = [read_run(path) for path in find_runs([folder])]
    >>> comparison(runs)["settings"]
    {'seed': [0, 1]}
    >>> print(comparison_text(comparison(runs)))
    setting...
    >>> draw_comparison(runs, f"{folder}/curves.png").name
    'curves.png'
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xtra_rl.evaluation.comparison import Curve, learning_curves
from xtra_rl.evaluation.figures import XAxis
from xtra_rl.evaluation.report import format_table
from xtra_rl.runs.record import Run
from xtra_rl.runs.settings import PROTOCOL, differences, flatten, yaml_text
from xtra_rl.runs.tables import duration, facts, labels, score_rows, status_text, throughput_rows

#: Setting of a run that is broken.
UNKNOWN = "(broken)"


def comparison(runs: Sequence[Run]) -> dict[str, Any]:
    """Runs side by side as plain values: ``runs``, ``settings``, ``results`` (in the order of the runs), ``notes``.

    Raises:
        ValueError: if there are fewer than two runs, or one is named twice.
    """
    if len(runs) < 2 or len({run.path.resolve() for run in runs}) < len(runs):
        paths = ", ".join(str(run.path) for run in runs)
        raise ValueError(f"compare got {paths}; expected at least two different run directories")
    columns = [_results(run) for run in runs]
    # Section by section: what the first run does not have must not end up below everything else.
    sections = zip(*(column for column in columns if column))
    names = dict.fromkeys(name for section in sections for part in section for name in part)
    flat = [{name: value for part in column for name, value in part.items()} for column in columns]
    flat = [{"status": status_text(facts(run)), **results} for run, results in zip(runs, flat)]
    good = [run for run in runs if not run.problem]
    settings = {
        name: [values[good.index(run)] if run in good else UNKNOWN for run in runs]
        for name, values in (differences(*(run.config for run in good)) if good else {}).items()
    }
    return {
        "runs": labels([run.path for run in runs]),
        "paths": [str(run.path) for run in runs],
        "settings": settings,
        "results": {name: [column.get(name) for column in flat] for name in ("status", *names)},
        "notes": _notes(runs),
    }


def _results(run: Run) -> tuple[dict[str, Any], ...]:
    """One column in sections: run, scores, speed, machine. Numbers of a broken run are not to be compared."""
    if run.problem:
        return ()
    fact, scores = facts(run), {}
    for row in score_rows(run):
        name = " ".join(part for part in (row["agent"], row["mode"]) if part)
        scores[f"score {name}"] = row["mean_return"]
        scores[f"HNS {name}"] = row["human_normalized"]
        scores[f"episodes {name}"] = row["episodes"]
    speed = {row["speed"]: row["mean"] for row in throughput_rows(run)}
    if wall := fact["wall_seconds"]:
        rates = {
            f"{name} per second": (fact[name] or 0) / wall or None for name in ("env_steps", "train_steps")
        }
        speed = rates | speed
    packages = run.manifest.get("packages", {})
    commit = run.manifest.get("git_commit")
    return (
        {name: fact[name] for name in ("recipe", "target", "env_steps", "train_steps", "wall_seconds")},
        scores,
        speed,
        {
            "device": run.manifest.get("device"),
            "library": f"xtra_rl {packages.get('xtra_rl')}, torch {packages.get('torch')}",
            "commit": commit and str(commit).replace(str(commit)[12:40], ""),
        },
    )


def _notes(runs: Sequence[Run]) -> list[str]:
    """What a reader has to know before comparing scores."""
    notes = [f"broken, not compared: {run.path}: {run.problem}" for run in runs if run.problem]
    good = [run for run in runs if not run.problem]
    flat = [flatten(run.config) for run in good]
    changed = [name for name in PROTOCOL if len({repr(each.get(name)) for each in flat}) > 1]
    if len({run.target for run in good}) > 1:
        changed.insert(0, "target")
    if changed:
        notes.append(f"scores are of different games or rules and not comparable: {', '.join(changed)}")
    if any(run.status == "unfinished" for run in good):
        notes.append("an unfinished run is shown with the last that it logged")
    return notes


def comparison_text(compared: dict[str, Any]) -> str:
    """Two tables, a column for each run, and notes."""

    def table(title: str, rows: dict[str, list[Any]], text: Any) -> str:
        cells = [
            {title: name, **dict(zip(compared["runs"], map(text, values)))} for name, values in rows.items()
        ]
        return format_table(cells)

    results = {
        name: values for name, values in compared["results"].items() if any(v is not None for v in values)
    }
    results = {
        "wall time" if name == "wall_seconds" else name.replace("_", " "): list(map(duration, values))
        if name == "wall_seconds"
        else values
        for name, values in results.items()
    }
    settings = compared["settings"]
    blocks = [
        table("setting", settings, yaml_text) if settings else "the runs have the same settings",
        table("result", results, _result_text),
        *compared["notes"],
    ]
    return "\n\n".join(blocks)


def _result_text(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value if value is None else str(value)


def draw_comparison(runs: Sequence[Run], path: str | os.PathLike[str]) -> Path:
    """Picture of the evaluations of all readable runs; greedy play, where there was any.

    Raises:
        ValueError: if none was evaluated, or the format of the picture is unknown.
    """
    if Path(path).suffix not in (".png", ".pdf", ".svg"):
        raise ValueError(f"figure={str(path)!r} has no format that can be drawn; expected .png, .pdf or .svg")
    curves = []
    for run, label in zip(runs, labels([run.path for run in runs])):
        names = [f"eval/{run.target}/return{suffix}" for suffix in ("", "_sampled")]
        name = next((name for name in names if name in run.metrics), None)
        if name and not run.problem:
            mode = ", sampled" if name.endswith("_sampled") else ""
            curves.append(Curve(label + mode, run.target or "", run.metrics[name]))
    if not curves:
        raise ValueError("none of the runs has an evaluation in its metrics.csv; leave out --figure")
    # Offline training takes no env steps.
    axis: XAxis = "env_step" if any(curve.scores.env_step[-1] > 0 for curve in curves) else "train_step"
    return learning_curves(curves, path, x_axis=axis)
