"""A part of a dataset as a dataset of its own, with what teachers said about it: small enough to hand on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xtra_rl.data.trajectories import TrajectoryDataset
from xtra_rl.data.trajectory_writer import TrajectoryWriter


def first_games(dataset: TrajectoryDataset, games_per_checkpoint: int) -> list[int]:
    """The first games of every checkpoint that played, as positions in the dataset.

    First are those that began in the first environments. A dataset holds games in the order in which they ended: its
    first ones are the short ones, whose returns and states are not those of the whole.

    Raises:
        ValueError: if ``games_per_checkpoint`` is not positive.
    """
    if games_per_checkpoint < 1:
        raise ValueError(f"games_per_checkpoint is {games_per_checkpoint}; expected at least 1")
    checkpoints, numbers = (np.array(dataset.episodes[key]) for key in ("checkpoint", "number"))
    began = np.argsort(numbers, kind="stable")
    chosen = [began[checkpoints[began] == each][:games_per_checkpoint] for each in np.unique(checkpoints)]
    return sorted(np.concatenate(chosen).tolist())


def extract(dataset: TrajectoryDataset, path: str | Path, games: Sequence[int]) -> TrajectoryDataset:
    """Copy some games into a new dataset, with every column beside the data that is up to date.

    Frames, rows and columns stay what they are; a column still says which teacher made it, and the new dataset which
    one it is a part of and how that was made.

    Args:
        dataset: to copy from.
        path: a folder that does not exist yet, or is empty.
        games: numbers of episodes, in the order wanted.

    Returns:
        The new dataset.

    Raises:
        ValueError: if ``path`` holds something, or a game is not in the dataset or is named twice.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/pong"
        >>> rows = {"pixels": np.zeros((4, 1, 8, 8), np.uint8), "action": np.zeros(4)}
        >>> rows |= {"reward": np.ones(4), "terminated": np.arange(4) == 2, "truncated": np.zeros(4) > 0}
        >>> with TrajectoryWriter(path, "pong", frame_shape=(1, 8, 8)) as writer:
        ...     numbers = [writer.add_episode(rows, checkpoint=number // 2) for number in range(4)]
        >>> whole = TrajectoryDataset(path)
        >>> first_games(whole, 1), extract(whole, f"{path}-part", first_games(whole, 1)).num_episodes
        ([0, 2], 2)
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"path={str(path)!r} holds something; pass a new folder")
    unknown = [number for number in games if not 0 <= number < dataset.num_episodes]
    if unknown or len(set(games)) < len(games) or not games:
        raise ValueError(
            f"games={list(games)} must be different ones of the {dataset.num_episodes} of {str(dataset.path)!r}"
        )
    settings = dataset.env_settings
    named = {name: settings.pop(name) for name in ("frame_shape", "frame_skip", "sticky", "grayscale")}
    origin = {"part_of": dataset.fingerprint, "games": len(games), "made_by": dataset.manifest["provenance"]}
    with TrajectoryWriter(
        path, dataset.task, **named, env_settings=settings, provenance=origin, commit_rows=8192
    ) as writer:
        for number in games:
            entry = dataset.episodes[number]
            rows = dataset.episode(number)
            writer.add_episode(rows, checkpoint=int(entry["checkpoint"]), number=int(entry["number"]))
    part = TrajectoryDataset(path)
    for name in filter(dataset.has_column, dataset.column_names()):
        values = dataset.column(name)
        provenance = dataset.column_provenance(name)
        part.write_column(name, (values[number] for number in games), provenance=provenance)
    return part
