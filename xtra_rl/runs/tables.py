"""``list`` and ``show``: what a run is and came to, as rows for a table or for another program."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtra_rl.evaluation.metrics import TaskScore, task_human_normalized
from xtra_rl.evaluation.report import format_table
from xtra_rl.runs.files import is_diagnosis, named_files, stored_states
from xtra_rl.runs.record import Run
from xtra_rl.runs.settings import defaults_of, differences, variant_of, yaml_text

Rows = list[dict[str, Any]]

_LIST_COLUMNS = {
    "path": "run",
    "recipe": "recipe",
    "target": "target",
    "scale": "scale",
    "seed": "seed",
    "variant": "variant",
    "status": "status",
    "env_steps": "env steps",
    "train_steps": "train steps",
    "wall": "wall time",
    "mean_return": "score",
    "human_normalized": "HNS",
    "evaluation": "of episodes",
    "date": "started (UTC)",
}


def facts(run: Run) -> dict[str, Any]:
    """One run in one row of plain values; ``None`` where something is not known.

    ``mean_return`` and ``human_normalized`` are those of the last greedy evaluation, or of ``mode`` where there was no
    greedy one. ``progress`` is the share of the env steps that an unfinished finetuning has behind it.
    """
    manifest, config = run.manifest, run.config
    env_steps, train_steps = run.steps()
    score = next(iter(run.scores()), None)
    date = manifest.get("date")
    return {
        "path": str(run.path),
        "recipe": manifest.get("recipe"),
        "target": run.target,
        "scale": config.get("scale"),
        "seed": config.get("seed"),
        "variant": variant_of(config),
        # A diagnosis has results of its own in place of a summary.
        "status": "finished" if run.status == "unfinished" and is_diagnosis(run.path) else run.status,
        "problem": run.problem,
        "progress": _progress(run, env_steps),
        "env_steps": env_steps,
        "train_steps": train_steps,
        "wall_seconds": run.summary.get("wall_seconds"),
        "mode": score.mode if score else None,
        "episodes": len(score.returns) or None if score else None,
        "mean_return": _finite(score.mean_return) if score else None,
        "human_normalized": _finite(score.human_normalized) if score else None,
        "date": date if isinstance(date, str) else None,
    }


def _progress(run: Run, env_steps: int | None) -> float | None:
    finetune = run.config.get("finetune")
    total = finetune.get("env_steps") if isinstance(finetune, Mapping) else None
    if (
        run.status != "unfinished"
        or run.manifest.get("recipe") != "xtra_finetune"
        or not isinstance(total, int)
    ):
        return None
    return (env_steps or 0) / max(total, 1)


def list_table(runs: Sequence[Run]) -> str:
    """A line for each run, and under the table what is wrong with the broken ones."""
    rows = []
    for fact in map(facts, runs):
        played = f"{fact['episodes'] or ''} {fact['mode'] or ''}".strip() or None
        texts = {
            "wall": duration(fact["wall_seconds"]),
            "evaluation": played,
            "date": fact["date"] and fact["date"][:16].replace("T", " "),
            "status": status_text(fact),
        }
        rows.append({title: (fact | texts)[name] for name, title in _LIST_COLUMNS.items()})
    used = [title for title in _LIST_COLUMNS.values() if any(row[title] is not None for row in rows)]
    problems = [f"broken: {run.path}: {run.problem}" for run in runs if run.problem]
    return "\n".join([format_table(rows, columns=used), *problems])


def status_text(fact: Mapping[str, Any]) -> str:
    """``finished``, ``broken``, or ``unfinished`` with how far."""
    share = fact["progress"]
    return fact["status"] if share is None else f"{fact['status']}, {100 * share:.0f} %"


def duration(seconds: float | None) -> str | None:
    """``h:mm:ss``.

    Example:
        >>> duration(3725.4)
        '1:02:05'
    """
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def details(run: Run) -> dict[str, Any]:
    """Everything that :func:`show_text` prints, as plain values by section."""
    manifest, fact = run.manifest, facts(run)
    default = defaults_of(str(fact["recipe"]), str(fact["scale"])) if run.config else None
    settings = differences(run.config, default) if default else {}
    return {
        **fact,
        **{name: manifest.get(name) for name in ("command_line", "git_commit", "device", "python", "platform")},
        "packages": manifest.get("packages", {}),
        "inputs": manifest.get("inputs", {}),
        "settings": {name: {"run": here, "default": there} for name, (here, there) in settings.items()},
        "scores": score_rows(run),
        "table": run.summary.get("table"),
        "metrics": [
            {"metric": name, "env_step": _step(series.env_step[-1]),
             "train_step": _step(series.train_step[-1]), "value": _finite(series.value[-1])}
            for name, series in run.metrics.items()
        ],
        "throughput": throughput_rows(run),
        "states": stored_states(run.path),
        "pictures and videos": named_files(run.path),
    }  # fmt: skip


def score_rows(run: Run) -> Rows:
    """Baselines, the agent at the start and at the end, with what is known of their episodes."""
    task = run.target or ""
    baselines = (run.summary.get("baselines") or {}).items()
    scores = [
        (name, TaskScore(task, "", value, task_human_normalized(task, value)))
        for name, value in baselines
        if value is not None
    ]
    starts = (run.summary.get("start/returns") or {}).items()
    scores += [("at start", run.score(mode, returns)) for mode, returns in starts]
    scores += [("at end" if run.summary else "last", score) for score in run.scores()]
    return [
        {
            "agent": agent,
            "mode": score.mode,
            "mean_return": _finite(score.mean_return),
            "human_normalized": _finite(score.human_normalized),
            "episodes": len(score.returns) or None,
            "lowest": min(score.returns, default=None),
            "highest": max(score.returns, default=None),
        }
        for agent, score in scores
    ]


def throughput_rows(run: Run) -> Rows:
    """Mean over the run and last value of each speed."""
    return [
        {
            "speed": name.removeprefix("throughput/"),
            "mean": _finite(series.value.mean()),
            "last": _finite(series.value[-1]),
        }
        for name, series in run.throughput.items()
    ]


def _finite(value: Any) -> float | None:
    """A number that JSON can hold."""
    return float(value) if value is not None and math.isfinite(value) else None


def _step(value: Any) -> int | None:
    return int(value) if math.isfinite(value) else None


def show_text(run: Run) -> str:
    """One run for a person."""
    about = details(run)
    blocks = [_head(about)]
    settings = [
        {"setting": name, "here": yaml_text(values["run"]), "default": yaml_text(values["default"])}
        for name, values in about["settings"].items()
    ]
    scores = [{name.replace("_", " "): value for name, value in row.items()} for row in about["scores"]]
    # Numbers of a column share their decimals; a learning rate and a return cannot.
    metrics = [{name: _number_text(value) for name, value in row.items()} for row in about["metrics"]]
    states = [row | {"size": size_text(row.pop("bytes"))} for row in about["states"]]
    titles = {
        f"settings that differ from the defaults of scale={about['scale']}": settings,
        f"scores on {about['target']}": scores,
        "scores": about["table"],
        "last value of each metric": metrics,
        "throughput": about["throughput"],
        "models and checkpoints": states,
    }
    blocks += [f"{title}\n{format_table(rows)}" for title, rows in titles.items() if rows]
    if about["pictures and videos"]:
        blocks.append("\n".join(["pictures and videos", *about["pictures and videos"]]))
    return "\n\n".join(blocks)


def _head(about: Mapping[str, Any]) -> str:
    packages = about["packages"]
    versions = [f"{name} {packages[name]}" for name in ("xtra_rl", "torch", "torchrl") if name in packages]
    command = about["command_line"]
    lines = {
        "run": about["path"],
        "status": status_text(about),
        "problem": about["problem"],
        "recipe": about["recipe"],
        "target": about["target"],
        "variant": about["variant"],
        "scale": about["scale"],
        "seed": about["seed"],
        "steps": f"{_count(about['env_steps'])} env, {_count(about['train_steps'])} train",
        "wall time": duration(about["wall_seconds"]),
        "started": about["date"],
        "command": " ".join(command) if isinstance(command, list) else None,
        "commit": about["git_commit"],
        "machine": ", ".join(str(about[name]) for name in ("device", "platform") if about[name]) or None,
        "versions": ", ".join([*versions, f"Python {about['python']}"]) if about["python"] else None,
    }
    lines |= {
        f"input {name}": f"{item.get('path')}  sha256 {str(item.get('sha256'))[:12]}"
        for name, item in about["inputs"].items() if isinstance(item, Mapping)
    }  # fmt: skip
    lines = {name: value for name, value in lines.items() if value is not None}
    width = max(map(len, lines))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines.items())


def _number_text(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _count(steps: int | None) -> str:
    return "no" if steps is None else str(steps)


def size_text(size: int) -> str:
    """Bytes for a person.

    Example:
        >>> size_text(1_234_567)
        '1.2 MB'
    """
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def labels(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Shortest ends of some paths that tell them apart.

    Example:
        >>> labels(["runs/a/alien-s0", "runs/b/alien-s0"])
        ['a/alien-s0', 'b/alien-s0']
    """
    parts = [Path(path).resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        tails = ["/".join(each[-depth:]) for each in parts]
        if len(set(tails)) == len(tails):
            return tails
    return [str(path) for path in paths]
