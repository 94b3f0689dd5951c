"""What is in datasets: tables and pictures for a person to look at.

Example:
    >>> from xtra_rl.data.collect import collect_episodes
    >>> import tempfile
    >>> from xtra_rl.data import TrajectoryDataset, TrajectoryWriter
    >>> from xtra_rl.evaluation.baselines import RandomPolicy
    >>> policy, env = RandomPolicy(torch.Generator().manual_seed(0)), {"image_size": 36, "grayscale": True}
    >>> path = f"{tempfile.mkdtemp()}/pong"
    >>> with TrajectoryWriter(path, "pong", frame_shape=(1, 36, 36), grayscale=True) as writer:
    ...     scores = collect_episodes(policy, "pong", writer, num_episodes=2, max_steps=20, env_kwargs=env)
    >>> dataset = TrajectoryDataset(find_datasets(path)[0])
    >>> print(describe(dataset))  # all of it, as text
    pong ...
    >>> returns_by_checkpoint(dataset)[0]["episodes"], int(action_counts(dataset).sum())
    (2, 40)
    >>> summary_rows([dataset])[0]["frames"], frame_sheet([dataset], f"{path}/sheet.png", frames=3).name
    ('1x36x36', 'sheet.png')
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xtra_rl.data.append_file import DatasetError
from xtra_rl.data.trajectories import TrajectoryDataset
from xtra_rl.envs import get_task
from xtra_rl.evaluation.figures import new_figure, save_figure, styled
from xtra_rl.evaluation.report import format_table

# ALE's order of the 18 actions.
_MOVES = ("up", "right", "left", "down", "up-right", "up-left", "down-right", "down-left")
ACTION_NAMES = ("noop", "fire", *_MOVES, *(f"{move}-fire" for move in _MOVES))
_BAR_WIDTH = 40


def find_datasets(path: str | Path) -> list[Path]:
    """The dataset at ``path``, or all datasets in the folder.

    Raises:
        DatasetError: if there is none.
    """
    path = Path(path)
    if (path / "manifest.json").is_file():
        return [path]
    # Hidden folders are those of artifacts that are being built, or whose building failed.
    found = sorted(file.parent for file in path.glob("[!.]*/manifest.json"))
    if not found:
        raise DatasetError(
            f"no dataset in {str(path)!r}; pass a folder with a manifest.json, or one that holds such folders"
        )
    return found


def returns_by_checkpoint(dataset: TrajectoryDataset) -> list[dict[str, Any]]:
    """Episodes, transitions and raw returns of each checkpoint that played, as rows of a table."""
    episodes = dataset.episodes
    rows = []
    for checkpoint in np.unique(episodes["checkpoint"]):
        chosen = episodes[episodes["checkpoint"] == checkpoint]
        returns = chosen["raw_return"]
        rows.append(
            {
                "checkpoint": int(checkpoint),
                "episodes": len(chosen),
                "transitions": int(chosen["length"].sum()) - len(chosen),
                "mean return": float(returns.mean()),
                "min": float(returns.min()),
                "max": float(returns.max()),
            }
        )
    return rows


def action_counts(dataset: TrajectoryDataset) -> np.ndarray:
    """How often each action was taken, ``[A]``; final observations do not count."""
    actions = np.array(dataset.table("action"))
    final = dataset.episodes["first_row"] + dataset.episodes["length"] - 1
    taken = np.delete(actions, final)
    size = max(get_task(dataset.task).num_actions, int(taken.max(initial=0)) + 1)
    return np.bincount(taken, minlength=size)


def summary_rows(datasets: Sequence[TrajectoryDataset]) -> list[dict[str, Any]]:
    """One row of a table for each dataset."""
    return [
        {
            "task": dataset.task,
            "episodes": dataset.num_episodes,
            "transitions": dataset.num_transitions,
            "mean return": float(dataset.returns.mean()),
            "frames": "x".join(map(str, dataset.frame_shape)),
            "raw": _size(dataset.raw_bytes),
            "on disk": _size(dataset.stored_bytes),
            "ratio": round(dataset.raw_bytes / dataset.stored_bytes, 1),
        }
        for dataset in datasets
    ]


def describe(dataset: TrajectoryDataset) -> str:
    """Everything about one dataset, as text."""
    settings = ", ".join(f"{key}={value}" for key, value in dataset.env_settings.items())
    lines = [f"{dataset.task}  {dataset.path}", f"environment: {settings}", ""]
    lines += [format_table(summary_rows([dataset])), "", "returns by checkpoint"]
    lines += [
        format_table(returns_by_checkpoint(dataset)),
        "",
        "actions",
        *_histogram(dataset),
        "",
        "columns",
    ]
    lines += list(_columns(dataset)) or ["none: no teacher has annotated this dataset"]
    lines += ["", "provenance", *(f"  {_short(entry)}" for entry in dataset.manifest["provenance"])]
    lines.append(
        "  " + ", ".join(f"{name} {version}" for name, version in dataset.manifest["versions"].items())
    )
    return "\n".join(lines)


def _histogram(dataset: TrajectoryDataset) -> Iterator[str]:
    counts = action_counts(dataset)
    legal = set(get_task(dataset.task).action_ids)
    names = ACTION_NAMES if get_task(dataset.task).ale_name else [str(i) for i in range(len(counts))]
    width = max(len(name) for name in names)
    for action, count in enumerate(counts.tolist()):
        if count or action in legal:
            share = count / counts.sum()
            note = "" if action in legal else "  (not legal in this game)"
            bar = "#" * round(_BAR_WIDTH * share / max(counts.max() / counts.sum(), 1e-9))
            yield f"  {names[action]:<{width}} {100 * share:5.1f} %  {bar}{note}"


def _columns(dataset: TrajectoryDataset) -> Iterator[str]:
    for name in dataset.column_names():
        try:
            made_by = dataset.column_provenance(name)
            yield f"  {name}: up to date, made by {_short(made_by)}"
        except DatasetError as error:
            yield f"  {name}: {error}"


def _short(entry: dict[str, Any]) -> str:
    cut = {
        key: f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else value
        for key, value in entry.items()
    }
    return ", ".join(f"{key}={value}" for key, value in cut.items())


def _size(count: int) -> str:
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


@styled
def frame_sheet(
    datasets: Sequence[TrajectoryDataset], path: str | os.PathLike[str], *, frames: int = 8, seed: int = 0
) -> Path:
    """Draw sample frames of each game, a row each, as the paper's Figures 15 to 17.

    Frames are spread evenly over the episodes, from the earliest checkpoint to the latest, each at a random step.

    Args:
        datasets: one row of pictures each.
        path: of the PNG.
        frames: pictures in a row.
        seed: of the steps chosen.
    """
    rng = np.random.default_rng(seed)
    figure = new_figure(1.25 * frames, 1.5 * len(datasets) + 0.2)
    grid = figure.subplots(len(datasets), frames, squeeze=False)
    for row, dataset in zip(grid, datasets, strict=True):
        episodes = np.linspace(0, dataset.num_episodes - 1, frames).round().astype(int)
        for axes, number in zip(row, episodes, strict=True):
            entry = dataset.episodes[number]
            step = int(rng.integers(entry["length"]))
            picture = dataset.read(int(number), "pixels", step, step + 1)[0].numpy().transpose(1, 2, 0)
            axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_title(f"{int(entry['checkpoint'])} / {step}", fontsize=6, loc="left", pad=2)
        row[0].set_ylabel(dataset.task.replace("_", " "), fontsize=8)
    figure.suptitle("Frames of the offline data (checkpoint / env step)", x=0.01, ha="left", fontsize=9)
    return save_figure(figure, path)
