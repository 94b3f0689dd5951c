"""Names, places and downloads of the files of DQN Replay (arXiv 1907.04543)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xtra_rl.data.append_file import DatasetError
from xtra_rl.data.importers.npy_stream import NpyStream
from xtra_rl.data.importers.shared import atari_task

BASE_URL = "https://storage.googleapis.com/atari-replay-datasets/dqn"
KINDS = ("observation", "action", "reward", "terminal")
FRAME_SHAPE = (84, 84)
RUNS, LAST_CHECKPOINT = range(1, 6), 50


def file_name(kind: str, checkpoint: int) -> str:
    """Name of one array of a checkpoint; ``add_count`` is how many rows the agent had logged by then.

    >>> file_name("reward", 7), file_name("add_count", 7)
    ('$store$_reward_ckpt.7.gz', 'add_count_ckpt.7.gz')
    """
    prefix = "" if kind == "add_count" else "$store$_"
    return f"{prefix}{kind}_ckpt.{checkpoint}.gz"


def folder_name(task: str, run: int) -> str:
    """Where the files of one agent are within the published tree.

    >>> folder_name("ms_pacman", 1)
    'MsPacman/1/replay_logs'
    """
    game = "".join(part.capitalize() for part in atari_task(task).name.split("_"))
    return f"{game}/{run}/replay_logs"


def file_url(task: str, run: int, kind: str, checkpoint: int, *, base_url: str = BASE_URL) -> str:
    """Public address of one array.

    >>> file_url("ms_pacman", 1, "reward", 7)
    'https://storage.googleapis.com/atari-replay-datasets/dqn/MsPacman/1/replay_logs/%24store%24_reward_ckpt.7.gz'
    """
    name = file_name(kind, checkpoint).replace("$", "%24")
    return f"{base_url}/{folder_name(task, run)}/{name}"


def download_dqn_replay(
    folder: str | Path, task: str, *, checkpoints: Sequence[int], run: int = 1, base_url: str = BASE_URL
) -> Path:
    """Download the chosen checkpoints of one agent, those that are not there yet; about 1 GB each.

    Args:
        folder: where the files go, as in the published tree.
        task: name of the game.
        checkpoints: 0 (the beginning of training) to 50.
        run: which of the five agents, 1 to 5.
        base_url: another place that holds the same tree.

    Returns:
        the folder with the files.

    Raises:
        ValueError: if pooch is not installed, or a number is out of range.
        DatasetError: if a file cannot be fetched.

    Example:
        Three gigabytes, from the bucket of the authors:

        >>> download_dqn_replay("logs", "Pong", checkpoints=[0, 25, 49])  # doctest: +SKIP
    """
    try:
        import pooch
    except ImportError as error:
        raise ValueError("downloading needs pooch; pip install 'xtra_rl[import]'") from error
    if run not in RUNS or not checkpoints or not set(checkpoints) <= set(range(LAST_CHECKPOINT + 1)):
        raise ValueError(f"run={run}, checkpoints={list(checkpoints)}: expected 1 to 5, and some of 0 to 50")
    target = Path(folder) / folder_name(task, run)
    for checkpoint in checkpoints:
        for kind in KINDS if checkpoint < LAST_CHECKPOINT else (*KINDS, "add_count"):
            url = file_url(task, run, kind, checkpoint, base_url=base_url)
            # The bucket publishes no hashes; a torn file is found when it is read.
            name = file_name(kind, checkpoint)
            try:
                pooch.retrieve(url, known_hash=None, fname=name, path=target, progressbar=True)
            except OSError as error:
                raise DatasetError(
                    f"{url} cannot be fetched ({error}); try again, files that are there already are kept"
                ) from error
    return target


def find_logs(source: Path, task: str, run: int, checkpoints: Sequence[int] | None) -> tuple[Path, list[int]]:
    """The folder with the files, and the chosen checkpoints in order.

    Raises:
        DatasetError: if a chosen checkpoint lacks one of its four arrays.
    """
    places = [source, source / folder_name(task, run)]
    found = {place: _complete(place) for place in places}
    folder = next((place for place in places if found[place]), source)
    chosen = sorted(found[folder] if checkpoints is None else set(checkpoints))
    missing = [number for number in chosen if number not in found[folder]]
    if missing or not chosen:
        raise DatasetError(
            f"no files {file_name('*', missing[0] if missing else 0)} in {str(folder)!r} or its "
            f"{folder_name(task, run)!r} (checkpoints with all of {', '.join(KINDS)}: "
            f"{sorted(found[folder]) or 'none'}); download them or choose others"
        )
    return folder, chosen


def _complete(folder: Path) -> set[int]:
    """Checkpoints with all four arrays."""
    numbers = []
    for kind in KINDS:
        pattern = re.compile(re.escape(file_name(kind, 0)).replace(r"\.0\.", r"\.(\d+)\."))
        matches = [pattern.fullmatch(file.name) for file in folder.glob("*.gz")]
        numbers.append({int(match[1]) for match in matches if match})
    return set.intersection(*numbers)


def count_rows(folder: Path, checkpoint: int) -> int:
    """How many rows from the front a checkpoint adds to those before it; all four arrays are checked.

    The files are dumps of a ring of a million rows, written one row before it is full and once more at the end of
    training (``OutOfGraphLoggedReplayBuffer`` of google-research/batch_rl). What stands behind the ring's cursor is one
    round old, i.e. of another game: the last row, and most of the last checkpoint.

    Raises:
        DatasetError: if the arrays do not fit together.
    """
    shapes, types = {}, {}
    for kind in KINDS:
        with NpyStream(folder / file_name(kind, checkpoint)) as array:
            shapes[kind], types[kind] = array.shape, array.dtype
    lengths = {kind: shape[0] if shape else 0 for kind, shape in shapes.items()}
    if len(set(lengths.values())) > 1 or shapes["observation"][1:] != FRAME_SHAPE:
        raise DatasetError(
            f"checkpoint {checkpoint} in {str(folder)!r} has {lengths} rows and frames of "
            f"{shapes['observation'][1:]}; expected equal lengths and {FRAME_SHAPE}, so download it again"
        )
    if types["observation"] != np.uint8 or types["action"].kind not in "iu":
        raise DatasetError(
            f"checkpoint {checkpoint} in {str(folder)!r} has frames of {types['observation']} and actions of "
            f"{types['action']}; expected uint8 and integers, so download it again"
        )
    capacity = lengths["action"]
    counter = folder / file_name("add_count", checkpoint)
    if counter.exists():
        return _read_number(counter) % max(capacity, 1)
    if checkpoint >= LAST_CHECKPOINT:
        raise DatasetError(
            f"{str(counter)!r} is missing, without which the rows that checkpoint {checkpoint} repeats of the one "
            "before cannot be told; download it, or choose other checkpoints"
        )
    return max(capacity - 1, 0)


def _read_number(path: Path) -> int:
    with NpyStream(path) as array:
        if array.shape != () or array.dtype.kind not in "iu":
            raise DatasetError(f"{str(path)!r} is damaged (it holds no number); download it again")
        return int(array.read(1)[0])
